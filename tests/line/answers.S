# The whole system of a guest: it answers each line on its serial port with "pong". On "D" it is dead, and
# stays on all the same: what no hypervisor sees.
    .code16
    .globl _start
    .equ PORT, 0x3f8
    .equ HAS_BYTE, 1
    .equ MAY_SEND, 0x20
_start:
    xor %ax, %ax
    mov %ax, %ds
    cld
read:
    mov $(PORT + 5), %dx
    in %dx, %al
    test $HAS_BYTE, %al
    jnz take
    sti                     # until the next tick of the clock, 18 a second
    hlt
    jmp read
take:
    mov $PORT, %dx
    in %dx, %al
    cmp $'D', %al
    je dead
    cmp $'\n', %al
    jne read
    mov $pong, %si
send:
    mov $(PORT + 5), %dx
    in %dx, %al
    test $MAY_SEND, %al
    jz send
    lodsb
    test %al, %al
    jz read
    mov $PORT, %dx
    out %al, %dx
    jmp send
dead:
    cli
    hlt
    jmp dead
pong:
    .asciz "pong\n"
    .org 510
    .word 0xaa55
