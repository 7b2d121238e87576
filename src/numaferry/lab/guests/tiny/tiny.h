/* Shared by the parts of the tiny guest: port and memory access, the serial line, PCI, and network devices. */
#ifndef TINY_H
#define TINY_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 inl(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline void barrier(void) { __asm__ volatile("lock; addl $0, (%%esp)" ::: "memory", "cc"); }

#define REG8(address) (*(volatile u8 *)(address))
#define REG16(address) (*(volatile u16 *)(address))
#define REG32(address) (*(volatile u32 *)(address))

/* serial.c: COM1, 115200 8n1 */
void serial_init(void);
void put(const char *text);
void put_dec(u32 value);
void put_hex(u32 value);
int serial_read(void); /* a byte, or -1 when none waits */

/* clock.c */
void clock_init(void);
void wait_for_tick(void); /* returns ten times per second of guest time */
u32 tick_percent(void);   /* how much of the present tick is over; more than 100 when late */

/* memory.c */
void memory_init(u32 first, u32 end, u32 hot_mib); /* fill [first, end) with the pattern; of it so much is dirtied */
void memory_dirty(u32 mib);           /* write one word in each page of the next `mib` MiB */
void memory_check(u32 mib);           /* compare up to the next `mib` MiB, as far as the tick allows; prints CORRUPT at once */

/* pci.c */
struct pci_device { u8 bus, slot, function; u16 vendor, device; };
u32 pci_read(const struct pci_device *dev, u8 offset);
void pci_write(const struct pci_device *dev, u8 offset, u32 value);
u32 pci_bar(const struct pci_device *dev, int bar); /* physical address, 0 when not below 4 GiB */
void pci_enable(const struct pci_device *dev);      /* memory and bus mastering on, INTx off */
void pci_scan(void (*found)(const struct pci_device *dev));

/* net.c: the frame, and the devices that can send it */
#define FRAME_BYTES 60
#define MAX_NICS 4
#define RING_SIZE 16
struct nic {
    const char *driver;
    u8 mac[6];
    void (*send)(struct nic *nic); /* sends nic->frames[nic->sent % RING_SIZE]; silently not, when the ring is full */
    u32 registers, notify, sent;
    volatile u8 *frames; /* RING_SIZE slots of 128 bytes, a frame at `header_bytes` of each */
    u32 header_bytes;
    void *ring;
};
void net_init(void);
void net_send(u32 counter);
int virtio_net_probe(const struct pci_device *dev, struct nic *nic, int index);
int e1000_probe(const struct pci_device *dev, struct nic *nic, int index);

#endif
