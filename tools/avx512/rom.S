/* An option ROM, which the BIOS calls in real mode: to the program, which the emulator put at 2 MiB, in protected mode. */
    .code16
    .byte 0x55, 0xaa, 1 /* 512 bytes; the caller makes their sum 0 */
    cli
    inb $0x92, %al
    orb $2, %al /* all address lines */
    outb %al, $0x92
    lgdtl %cs:(descriptors_at)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $protected + 0xd0000
    .code32
protected:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x200000, %eax
    jmpl *%eax
    .balign 8
descriptors: /* none, code, data, and code of 64 bits */
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff
descriptors_at:
    .word 31
    .long descriptors + 0xd0000
