/* The pattern. In each page, one word in every 512 bytes depends on its address, and the second word carries the number
   of the dirtying round. Rounds go through the hot pages (all, unless told less) in order, so it is known for every
   page which round it must show: a page whose last write was lost in a migration is found, not only one that is wholly
   wrong. */
#include "tiny.h"

#define PAGE 4096
#define STRIDE 512
#define PAGES_PER_MIB 256
#define MAX_REPORTS 16
#define CLOCK_EVERY_PAGES 32
#define CHECK_UNTIL_PERCENT 40 /* of a tick */

static u32 first, end, hot_end, dirty_at, round_number, check_at, reports;

static inline u32 pattern_of(u32 address) { return address ^ 0xdeadbeef; }
static inline u32 round_mark(u32 address, u32 round) { return address ^ (round * 2654435761u) ^ 0x5a5a5a5a; }

void memory_init(u32 from, u32 to, u32 hot_mib) {
    first = (from + PAGE - 1) & ~(PAGE - 1);
    end = to & ~(PAGE - 1);
    hot_end = hot_mib && hot_mib < (end - first) >> 20 ? first + (hot_mib << 20) : end;
    dirty_at = check_at = first;
    for (u32 page = first; page < end; page += PAGE) {
        for (u32 word = page; word < page + PAGE; word += STRIDE) REG32(word) = pattern_of(word);
        REG32(page + 4) = round_mark(page, 0);
    }
}

void memory_dirty(u32 mib) {
    for (u32 pages = mib * PAGES_PER_MIB; pages && first < end; pages--) {
        if (dirty_at == first) round_number++;
        REG32(dirty_at + 4) = round_mark(dirty_at, round_number);
        dirty_at += PAGE;
        if (dirty_at == hot_end) dirty_at = first;
    }
}

static void report(u32 address, u32 want) {
    if (REG32(address) == want || reports >= MAX_REPORTS) return;
    reports++;
    put("CORRUPT at="), put_hex(address), put(" got="), put_hex(REG32(address)), put(" want="), put_hex(want), put("\n");
}

static void check_page(u32 page) {
    /* between rounds (dirty_at == first) every page shows the current round */
    u32 written = page < dirty_at || dirty_at == first, wrong;
    u32 mark = round_mark(page, page >= hot_end ? 0 : written ? round_number : round_number - 1);
    wrong = REG32(page + 4) ^ mark;
    for (u32 word = page; word < page + PAGE; word += STRIDE) wrong |= REG32(word) ^ pattern_of(word);
    if (!wrong) return;
    for (u32 word = page; word < page + PAGE; word += STRIDE) report(word, pattern_of(word));
    report(page + 4, mark);
}

void memory_check(u32 mib) {
    for (u32 done = 0; done < mib * PAGES_PER_MIB && first < end; done++) {
        if (done && done % CLOCK_EVERY_PAGES == 0 && tick_percent() > CHECK_UNTIL_PERCENT) return;
        check_page(check_at);
        check_at += PAGE;
        if (check_at == end) check_at = first;
    }
}
