/* Time is the ACPI power management timer (3.579545 MHz, 24 bits: it wraps every 4.7 s), which stands still while the
   guest is paused. The interval timer interrupts 50 times a second, only so that waiting costs no host CPU. */
#include "tiny.h"

#define PM_TIMER 0x608 /* where SeaBIOS puts it, on q35 and i440fx */
#define PM_TIMER_MASK 0xffffff
#define PM_PER_TICK 357954
#define PIT_DIVISOR 23864 /* 1193182 Hz / 50 */

extern void on_timer(void), on_spurious(void), on_fault(void);
static struct { u16 low, selector, type, high; } idt[256] __attribute__((aligned(8)));
static u32 last, behind; /* in counts of the timer */

static void gate(int vector, void (*handler)(void)) {
    u32 address = (u32)handler;
    idt[vector].low = address & 0xffff;
    idt[vector].selector = 0x08;
    idt[vector].type = 0x8e00;
    idt[vector].high = address >> 16;
}

void clock_init(void) {
    static const u16 setup[][2] = {
        {0x20, 0x11}, {0xa0, 0x11}, {0x21, 0x20}, {0xa1, 0x28}, {0x21, 4}, {0xa1, 2}, {0x21, 1}, {0xa1, 1}, /* vectors 32.. */
        {0x21, 0xfe}, {0xa1, 0xff},                                   /* only the interval timer may interrupt */
        {0x43, 0x34}, {0x40, PIT_DIVISOR & 0xff}, {0x40, PIT_DIVISOR >> 8},
    };
    struct { u16 limit; u32 base; } __attribute__((packed)) pointer = {sizeof idt - 1, (u32)idt};
    for (int vector = 0; vector < 256; vector++) gate(vector, vector < 32 ? on_fault : on_spurious);
    gate(32, on_timer);
    __asm__ volatile("lidt %0" ::"m"(pointer));
    for (u32 i = 0; i < sizeof setup / 4; i++) outb(setup[i][0], setup[i][1]);
    last = inl(PM_TIMER) & PM_TIMER_MASK;
}

u32 tick_percent(void) {
    u32 now = inl(PM_TIMER) & PM_TIMER_MASK;
    behind += (now - last) & PM_TIMER_MASK;
    last = now;
    return behind / (PM_PER_TICK / 100);
}

void wait_for_tick(void) {
    for (;;) {
        tick_percent();
        if (behind >= PM_PER_TICK) break;
        __asm__ volatile("sti; hlt" ::: "memory", "cc"); /* the only place where interrupts are on */
    }
    behind -= PM_PER_TICK;
    if (behind > 10 * PM_PER_TICK) behind = 0; /* a starved host: no burst of a second's ticks afterwards */
}
