/* Entry: multiboot header, own GDT and IDT, a stack, and the interrupt stubs. 32-bit protected mode, no paging. */
        .set MULTIBOOT_MAGIC, 0x1BADB002
        .set MULTIBOOT_FLAGS, 3                 /* page-align modules, give the memory map */

        .section .multiboot, "a"
        .align 4
        .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

        .section .text
        .globl _start
_start:
        cli
        mov     $stack_top, %esp
        lgdt    gdt_pointer                     /* the loader's may be gone at the first interrupt */
        ljmp    $0x08, $1f
1:      mov     $0x10, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        push    %ebx                            /* the multiboot information */
        call    tiny_main
2:      hlt
        jmp     2b

        .globl on_timer
on_timer:                                       /* only wakes `hlt`; time is read from the ACPI timer */
        push    %eax
        mov     $0x20, %al
        out     %al, $0x20
        pop     %eax
        ret     $8                              /* not `iret`: software hypervisors that emulate ring 0 lack it. The */
                                                /* code segment is the same, and interrupts shall stay off after `hlt` */
        .globl on_spurious
on_spurious:
        ret     $8

        .globl on_fault
on_fault:
        mov     $stack_top, %esp
        call    tiny_fault
3:      hlt
        jmp     3b

        .section .rodata
        .align 8
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
        .word   23
        .long   gdt

        .section .bss
        .align 16
        .skip   16384
stack_top:
        .section .note.GNU-stack, "", @progbits
