"""Guests that do something and need nothing to boot: the first sector of their disk is their whole program."""

import struct

FLAG = 0x7E00
"""Where a boot sector says that it is there (physical address)."""
COUNTER = 0x100000
"""Where a restless guest counts, and writes its memory from."""
DIRTY_BYTES = 24 << 20


def boot_sector(code: bytes) -> bytes:
    return code.ljust(510, b"\x90") + b"\x55\xaa"


# Enables the power button (PM1a), waits for it to be pressed, and switches the machine off.
OBEDIENT = boot_sector(
    bytes.fromhex(
        "ba0206 b80001 ef"  # mov dx,602; mov ax,100; out dx,ax
        "c706007e 3412"  # mov word [7e00],1234
        "ba0006 ed f6c401 74f7"  # again: mov dx,600; in ax,dx; test ah,1; jz again
        "ba0406 b80020 ef ebfe"  # mov dx,604; mov ax,2000; out dx,ax; jmp $
    )
)


def restless() -> bytes:
    """Enter protected mode and write 24 MiB of memory over and over, with a number that counts."""
    at = 0x7C00
    head = (
        bytes.fromhex("fa fc 0f0116") + b"%b" + bytes.fromhex("0f20c0 0c01 0f22c0 ea") + b"%b" + b"\x08\x00"
    )
    length = len(head) - 2 * len(b"%b") + 2 * 2
    main = (
        bytes.fromhex("66b81000 8ed8 8ec0 31c0")  # mov ax,10; mov ds,ax; mov es,ax; xor eax,eax
        + bytes.fromhex("40 bf")  # again: inc eax; mov edi,COUNTER
        + struct.pack("<I", COUNTER)
        + b"\xb9"  # mov ecx,...
        + struct.pack("<I", DIRTY_BYTES // 4)
        + bytes.fromhex("f3ab ebf1")  # rep stosd; jmp again
    )
    gdt = struct.pack("<QQQ", 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF)
    gdt_at = at + length + len(main)
    pointer = struct.pack("<HI", len(gdt) - 1, gdt_at)
    code = head % (struct.pack("<H", gdt_at + len(gdt)), struct.pack("<H", at + length))
    return boot_sector(code + main + gdt + pointer)
