#include "machine.h"

#include <elf.h>
#include <stdarg.h>

enum { PAGE = 4096, GUARDED = 1 << 30, GUARDED_PAGES = 512 * 512, MOST_SPARE = 512, PRESENT = 3 };

static inline void out(uint16_t port, uint8_t byte) {
    __asm__ volatile("outb %0, %1" ::"a"(byte), "d"(port));
}

static inline uint8_t in(uint16_t port) {
    uint8_t byte;
    __asm__ volatile("inb %1, %0" : "=a"(byte) : "d"(port));
    return byte;
}

void *memcpy(void *to, const void *from, size_t size) {
    void *end = to;
    __asm__ volatile("rep movsb" : "+D"(end), "+S"(from), "+c"(size)::"memory");
    return to;
}

void *memset(void *to, int byte, size_t size) {
    void *end = to;
    __asm__ volatile("rep stosb" : "+D"(end), "+c"(size) : "a"(byte) : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t size) {
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < size; i++)
        if (x[i] != y[i]) return x[i] - y[i];
    return 0;
}

/* ---- the serial line ---- */

void open_line(void) {
    out(0x3fb, 3); /* bytes of eight bits */
}

static void put(char c) {
    while (!(in(0x3fd) & 0x20)) {}
    out(0x3f8, (uint8_t)c);
}

static void put_number(int64_t number) {
    if (number < 0) put('-'), number = -number;
    if (number > 9) put_number(number / 10);
    put((char)('0' + number % 10));
}

void say(const char *format, ...) {
    va_list values;
    va_start(values, format);
    for (; *format; format++)
        if (*format != '%') put(*format);
        else if (*++format == 'd') put_number(va_arg(values, int64_t));
        else
            for (const char *text = va_arg(values, const char *); *text; text++) put(*text);
    va_end(values);
}

void power_off(void) {
    while (!(in(0x3fd) & 0x40)) {} /* until all is sent */
    for (const char *word = "Shutdown"; *word; word++) out(0x8900, (uint8_t)*word); /* Bochs' own port */
    for (;;) __asm__ volatile("hlt");
}

/* ---- memory: the second GiB, of which pages are there as they are asked for ---- */

static __attribute__((aligned(PAGE))) uint64_t page_tables[512][512];
__attribute__((aligned(PAGE))) uint64_t guarded_tables[512];
static size_t next_page;
static Room spare[MOST_SPARE];
static int spare_count;

Room room(size_t size) {
    const size_t pages = (size + PAGE - 1) / PAGE;
    int best = -1;
    for (int i = 0; i < spare_count; i++)
        if (spare[i].pages >= pages && (best < 0 || spare[i].pages < spare[best].pages)) best = i;
    Room found;
    if (best >= 0 && spare[best].pages <= 2 * pages + 4) {
        found = spare[best];
        spare[best] = spare[--spare_count];
    } else {
        found = (Room){.base = (char *)(GUARDED + next_page * PAGE), .pages = pages};
        for (size_t page = next_page; page < next_page + pages; page++) {
            guarded_tables[page / 512] = (uint64_t)page_tables[page / 512] | PRESENT;
            page_tables[page / 512][page % 512] = (GUARDED + page * PAGE) | PRESENT;
        }
        next_page += pages + 1;
        if (next_page > GUARDED_PAGES) say("out of memory\n"), power_off();
    }
    found.size = size;
    found.at = found.base + found.pages * PAGE - size;
    return found;
}

Room zeroed_room(size_t size) {
    const Room made = room(size);
    memset(made.at, 0, size);
    return made;
}

void give_back(Room room) {
    if (spare_count == MOST_SPARE) say("too many rooms\n"), power_off();
    spare[spare_count++] = room;
}

/* ---- the library ---- */

extern const char kernels[] __asm__("_binary_kernels_so_start"); /* as the linker names it */
static __attribute__((aligned(PAGE))) char loaded[1 << 20];
static const Elf64_Sym *symbols;
static const char *names;
static size_t symbol_count;

static int is_same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

void *named(const char *name) {
    for (size_t i = 0; i < symbol_count; i++)
        if (symbols[i].st_shndx != SHN_UNDEF && is_same(names + symbols[i].st_name, name))
            return loaded + symbols[i].st_value;
    if (is_same(name, "memcpy")) return (void *)memcpy;
    if (is_same(name, "memset")) return (void *)memset;
    if (is_same(name, "memcmp") || is_same(name, "bcmp")) return (void *)memcmp;
    return NULL;
}

static void relocate(const Elf64_Rela *entries, size_t bytes) {
    for (size_t i = 0; i < bytes / sizeof *entries; i++) {
        const Elf64_Rela *entry = entries + i;
        const char *name = names + symbols[ELF64_R_SYM(entry->r_info)].st_name;
        char *value = ELF64_R_TYPE(entry->r_info) == R_X86_64_RELATIVE ? loaded : named(name);
        if (value == NULL) say("not there: %s\n", name);
        *(char **)(loaded + entry->r_offset) = value + entry->r_addend;
    }
}

void load_kernels(void) {
    const Elf64_Ehdr *file = (const Elf64_Ehdr *)kernels;
    const Elf64_Phdr *parts = (const Elf64_Phdr *)(kernels + file->e_phoff);
    size_t of[DT_NUM] = {0};
    for (int i = 0; i < file->e_phnum; i++)
        if (parts[i].p_type == PT_LOAD) memcpy(loaded + parts[i].p_vaddr, kernels + parts[i].p_offset, parts[i].p_filesz);
    for (int i = 0; i < file->e_phnum; i++)
        if (parts[i].p_type == PT_DYNAMIC)
            for (const Elf64_Dyn *each = (const Elf64_Dyn *)(loaded + parts[i].p_vaddr); each->d_tag != DT_NULL; each++)
                if (each->d_tag < DT_NUM) of[each->d_tag] = each->d_un.d_val;
    symbols = (const Elf64_Sym *)(loaded + of[DT_SYMTAB]);
    names = loaded + of[DT_STRTAB];
    symbol_count = ((const uint32_t *)(loaded + of[DT_HASH]))[1];
    relocate((const Elf64_Rela *)(loaded + of[DT_RELA]), of[DT_RELASZ]);
    relocate((const Elf64_Rela *)(loaded + of[DT_JMPREL]), of[DT_PLTRELSZ]);
    void (**first)(void) = (void (**)(void))(loaded + of[DT_INIT_ARRAY]);
    for (size_t i = 0; i < of[DT_INIT_ARRAYSZ] / sizeof *first; i++) first[i]();
}
