/* The linux guest's one program, process 1: counts aloud ten times per second, watches the memory that is free, and
   broadcasts. Lines and pattern are those of the tiny guest (../tiny); here they are words of a user's mapping. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define STRIDE 512u
#define PAGES_PER_MIB 256u
#define MAX_REPORTS 16u
#define TICK_NS 100000000ll
#define CHECK_UNTIL_NS (TICK_NS * 4 / 10)
#define CLOCK_EVERY_PAGES 32u
#define PORT 30005

static uint8_t *arena;
static uint32_t pages, dirty_at, round_number, check_at, reports;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static volatile uint32_t *word_at(uint32_t page, uint32_t offset) {
    return (volatile uint32_t *)(arena + (uint64_t)page * PAGE + offset);
}
static uint32_t pattern_of(uint32_t page, uint32_t offset) { return (page * PAGE + offset) ^ 0xdeadbeefu; }
static uint32_t round_mark(uint32_t page, uint32_t round) { return page ^ (round * 2654435761u) ^ 0x5a5a5a5au; }

static void memory_init(void) {
    struct sysinfo info;
    sysinfo(&info);
    /* half of what is free: the kernel keeps what it needs, and nothing is ever swapped */
    pages = (uint64_t)info.freeram * info.mem_unit / 2 / PAGE;
    arena = mmap(NULL, (uint64_t)pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED) pages = 0;
    for (uint32_t page = 0; page < pages; page++) {
        for (uint32_t at = 0; at < PAGE; at += STRIDE) *word_at(page, at) = pattern_of(page, at);
        *word_at(page, 4) = round_mark(page, 0);
    }
}

static void memory_dirty(uint32_t mib) {
    for (uint32_t left = mib * PAGES_PER_MIB; left && pages; left--) {
        if (dirty_at == 0) round_number++;
        *word_at(dirty_at, 4) = round_mark(dirty_at, round_number);
        dirty_at = (dirty_at + 1) % pages;
    }
}

static void expect(uint32_t page, uint32_t offset, uint32_t want) {
    uint32_t got = *word_at(page, offset);
    if (got != want && reports++ < MAX_REPORTS)
        printf("CORRUPT at=0x%llx got=0x%08x want=0x%08x\n", (unsigned long long)page * PAGE + offset, got, want);
}

static void memory_check(uint32_t mib, int64_t until_ns) {
    for (uint32_t done = 0; done < mib * PAGES_PER_MIB && pages; done++) {
        if (done && done % CLOCK_EVERY_PAGES == 0 && now_ns() > until_ns) return;
        int written = check_at < dirty_at || dirty_at == 0;
        for (uint32_t at = 0; at < PAGE; at += STRIDE) expect(check_at, at, pattern_of(check_at, at));
        expect(check_at, 4, round_mark(check_at, written ? round_number : round_number - 1));
        check_at = (check_at + 1) % pages;
    }
}

static void set_address(int link, struct ifreq *request, const char *text) {
    struct sockaddr_in *at = (struct sockaddr_in *)&request->ifr_addr;
    char address[32];
    unsigned prefix;
    if (sscanf(text, "%31[^/]/%u", address, &prefix) != 2 || prefix < 1 || prefix > 32) return;
    at->sin_family = AF_INET;
    at->sin_addr.s_addr = inet_addr(address);
    ioctl(link, SIOCSIFADDR, request);
    at->sin_addr.s_addr = htonl(~0u << (32 - prefix));
    ioctl(link, SIOCSIFNETMASK, request);
}

/* An interface that is not up is new, at the start or plugged in later: it gets up, and the address. */
static void net_greet(int link, const char *name, const char *address) {
    struct ifreq request = {0};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(link, SIOCGIFFLAGS, &request) || request.ifr_flags & IFF_UP) return;
    request.ifr_flags |= IFF_UP;
    ioctl(link, SIOCSIFFLAGS, &request);
    if (!strcmp(name, "lo") || ioctl(link, SIOCGIFHWADDR, &request)) return;
    uint8_t *mac = (uint8_t *)request.ifr_hwaddr.sa_data;
    printf("NIC linux %02x:%02x:%02x:%02x:%02x:%02x\n", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    set_address(link, &request, address);
}

/* A datagram with our word and the counter from every interface; sending may fail, a guest may lose its NIC. */
static void net_send(int link, uint32_t counter, const char *address) {
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *each = all; each && each->if_index; each++) {
        net_greet(link, each->if_name, address);
        if (!strcmp(each->if_name, "lo")) continue;
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = INADDR_BROADCAST};
        struct { char word[9]; uint32_t counter; } __attribute__((packed)) data = {.counter = htonl(counter)};
        memcpy(data.word, "numaferry", sizeof data.word);
        setsockopt(link, SOL_SOCKET, SO_BINDTODEVICE, each->if_name, strlen(each->if_name) + 1);
        sendto(link, &data, sizeof data, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to);
    }
    if (all) if_freenameindex(all);
}

static uint32_t adjusted(uint32_t dirty) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    uint32_t now = dirty;
    char byte;
    while (poll(&input, 1, 0) == 1 && input.revents & POLLIN && read(0, &byte, 1) == 1)
        if (byte >= '0' && byte <= '9') now = byte == '0' ? 0 : 1u << (byte - '1');
    if (now != dirty) printf("DIRTY mib=%u\n", now);
    return now;
}

/* The value of the word that begins with `name`; "" when there is none. */
static const char *option(int count, char **words, const char *name) {
    for (int i = 1; i < count; i++)
        if (!strncmp(words[i], name, strlen(name))) return words[i] + strlen(name);
    return "";
}

int main(int count, char **words) {
    const char *address = option(count, words, "address="), *check_mib = option(count, words, "check=");
    uint32_t dirty = strtoul(option(count, words, "dirty="), NULL, 10), check = *check_mib ? strtoul(check_mib, NULL, 10) : 32;
    int link = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    setsockopt(link, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
    printf("START linux dirty_mib=%u\n", dirty);
    memory_init();
    printf("READY\n");
    int64_t due = now_ns();
    for (uint32_t counter = 1;; counter++) {
        due += TICK_NS;
        if (now_ns() > due + 10 * TICK_NS) due = now_ns(); /* starved: no burst afterwards */
        struct timespec until = {due / 1000000000ll, due % 1000000000ll};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR);
        memory_dirty(dirty);
        memory_check(check, due + CHECK_UNTIL_NS);
        net_send(link, counter, address);
        printf("C %u\n", counter);
        dirty = adjusted(dirty);
        while (waitpid(-1, NULL, WNOHANG) > 0);
    }
}
