/* COM1. The transmit FIFO takes 16 bytes once it is empty, so the status is read once per 16 bytes: each read is an
   exit to the hypervisor, dear where that hypervisor is itself a guest. */
#include "tiny.h"

#define COM1 0x3f8
#define LINE_STATUS (COM1 + 5)

static u32 room;

void serial_init(void) {
    static const u8 setup[][2] = {{1, 0}, {3, 0x80}, {0, 1}, {1, 0}, {3, 3}, {2, 7}}; /* {register, value} */
    for (u32 i = 0; i < sizeof setup / 2; i++) outb(COM1 + setup[i][0], setup[i][1]);
}

static void put_byte(u8 byte) {
    if (!room) {
        while (!(inb(LINE_STATUS) & 0x20));
        room = 16;
    }
    outb(COM1, byte);
    room--;
}

void put(const char *text) {
    room = 0; /* how much of the last line is still on its way is not known */
    while (*text) put_byte(*text++);
}

void put_dec(u32 value) {
    char digits[11];
    int i = 10;
    digits[i] = 0;
    do digits[--i] = '0' + value % 10;
    while (value /= 10);
    put(digits + i);
}

void put_hex(u32 value) {
    char digits[11] = "0x";
    for (int i = 0; i < 8; i++) digits[2 + i] = "0123456789abcdef"[(value >> (28 - 4 * i)) & 15];
    digits[10] = 0;
    put(digits);
}

int serial_read(void) { return inb(LINE_STATUS) & 1 ? inb(COM1) : -1; }
