/* The tiny guest: counts aloud ten times per second of guest time, watches its memory, and broadcasts.

   Serial lines (read by numaferry.lab.guests.serial_watch): START, NIC, READY, DIRTY, `C <counter>`, CORRUPT, FAULT.
   Kernel command line: dirty=<MiB per tick>, hot=<MiB that are dirtied, 0: all>, check=<MiB
   per tick>. At run time a digit, from the serial line or the keyboard (virDomainSendKey), sets the dirtying: 0 stops
   it, n means 2^(n-1) MiB per tick. */
#include "tiny.h"

#define ARENA_FIRST 0x400000u /* above this image and what the loader put behind it */

static u32 option(const char *text, const char *name, u32 otherwise) {
    for (; *text; text++) {
        const char *t = text, *n = name;
        while (*n && *t == *n) t++, n++;
        if (*n) continue;
        u32 value = 0;
        while (*t >= '0' && *t <= '9') value = value * 10 + *t++ - '0';
        return value;
    }
    return otherwise;
}

static u32 dirty_of_digit(u32 digit) { return digit ? 1u << (digit - 1) : 0; }

static u32 adjusted(u32 dirty) {
    u32 now = dirty;
    for (int byte = serial_read(); byte >= 0; byte = serial_read())
        if (byte >= '0' && byte <= '9') now = dirty_of_digit(byte - '0');
    while (inb(0x64) & 1) { /* keyboard, scan code set 1: keys 1..9 are 2..10, key 0 is 11 */
        u8 code = inb(0x60);
        if (code >= 2 && code <= 11) now = dirty_of_digit((code - 1) % 10);
    }
    if (now != dirty) put("DIRTY mib="), put_dec(now), put("\n");
    return now;
}

void tiny_fault(void) { put("FAULT\n"); }

void tiny_main(const u32 *multiboot) {
    serial_init();
    const char *command_line = multiboot[0] & 4 ? (const char *)multiboot[4] : "";
    u32 end = 0x100000 + multiboot[2] * 1024;
    u32 dirty = option(command_line, "dirty=", 0), check = option(command_line, "check=", 32);
    put("START tiny memory_kib="), put_dec(end / 1024), put(" dirty_mib="), put_dec(dirty), put("\n");
    memory_init(ARENA_FIRST, end, option(command_line, "hot=", 0));
    net_init();
    clock_init();
    put("READY\n");
    for (u32 counter = 1;; counter++) {
        wait_for_tick();
        memory_dirty(dirty);
        memory_check(check);
        net_send(counter);
        put("C "), put_dec(counter), put("\n");
        dirty = adjusted(dirty);
    }
}
