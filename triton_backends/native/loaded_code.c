#define _GNU_SOURCE
#include "loaded_code.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A segment that is never written, not even by relocations: its pages are those of the file. */
typedef struct {
    char *library; /* its path; the program's own is empty */
    uintptr_t base, begin, end; /* whole pages: the first and the last may be another segment's too */
} Segment;

typedef struct {
    Segment *items;
    size_t count;
    uintptr_t page_bytes;
} Segments;

static bool relocates_code(const struct dl_phdr_info *info) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
        const ElfW(Dyn) *entry = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        for (; entry->d_tag != DT_NULL; entry++)
            if (entry->d_tag == DT_TEXTREL || (entry->d_tag == DT_FLAGS && (entry->d_un.d_val & DF_TEXTREL) != 0))
                return true;
    }
    return false;
}

static int note(struct dl_phdr_info *info, size_t size, void *state) {
    (void)size;
    Segments *found = state;
    if (info->dlpi_name == NULL || relocates_code(info)) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = info->dlpi_phdr + i;
        if (header->p_type != PT_LOAD || (header->p_flags & PF_W) != 0) continue;
        Segment *more = realloc(found->items, (found->count + 1) * sizeof *more);
        char *library = strdup(info->dlpi_name);
        if (more != NULL) found->items = more;
        if (more == NULL || library == NULL) {
            free(library);
            return 1;
        }
        const uintptr_t at = info->dlpi_addr + header->p_vaddr, page = found->page_bytes;
        const uintptr_t begin = (at + page - 1) & ~(page - 1), end = (at + header->p_filesz) & ~(page - 1);
        more[found->count++] = (Segment){library, info->dlpi_addr, begin, end};
    }
    return 0;
}

/* A library may be unloaded between our finding it and here: only while we hold it open are these its pages. */
static void release(const Segment *segment) {
    struct link_map *loaded = NULL;
    const char *name = *segment->library != '\0' ? segment->library : NULL;
    void *held = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
    if (held == NULL) return; /* the kernel's own is none that can be opened */
    if (dlinfo(held, RTLD_DI_LINKMAP, &loaded) == 0 && loaded->l_addr == segment->base &&
        segment->begin < segment->end)
        madvise((void *)segment->begin, segment->end - segment->begin, MADV_DONTNEED);
    dlclose(held);
}

void loaded_code_release(void) {
    Segments found = {.page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE)};
    dl_iterate_phdr(note, &found);
    for (size_t i = 0; i < found.count; i++) {
        release(found.items + i);
        free(found.items[i].library);
    }
    free(found.items);
}
