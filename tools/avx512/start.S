/* At 2 MiB, in protected mode: on to 64 bits and all vector registers, and to start().
 * The first GiB is itself; of the second one machine.c says what is there. */
    .section .start, "ax"
    .code32
    movl $tables, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x40620, %eax /* long addresses; SSE's and larger registers, kept by XSAVE */
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $~0xc, %eax
    orl $0x80000002, %eax
    movl %eax, %cr0
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $0xe7, %eax /* x87, SSE, AVX, AVX-512 */
    xsetbv
    ljmpl $24, $long_mode
    .code64
long_mode:
    movq $stack_end, %rsp
    call start
1:  hlt
    jmp 1b

    .data
    .balign 4096
tables:
    .quad gibibytes + 7
    .fill 511, 8, 0
gibibytes:
    .quad 0x83
    .quad guarded_tables + 7
    .fill 510, 8, 0

    .bss
    .balign 16
    .fill 65536
stack_end:
