/* A bare machine: memory, a serial line to print to, and a shared library loaded without a system. */
#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes, behind whose last one is a page that cannot be touched. */
typedef struct {
    char *at, *base;
    size_t size, pages;
} Room;

Room room(size_t size);
Room zeroed_room(size_t size);
void give_back(Room room);

/* Make the serial line ready. */
void open_line(void);

/* Print as printf does; %d is an int64_t, %s a text. */
void say(const char *format, ...);

/* End the emulation. */
_Noreturn void power_off(void);

/* Load the library that start.S holds, and run what it runs when loaded. */
void load_kernels(void);

/* The address of one of its names. */
void *named(const char *name);

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);

#endif
