/* virtio-net over PCI (virtio 1.x layout, which transitional devices offer too): the transmit queue alone. */
#include "tiny.h"

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8
#define FEATURE_MAC (1u << 5)       /* word 0 */
#define FEATURE_VERSION_1 (1u << 0) /* word 1 */
#define TRANSMIT_QUEUE 1
#define NET_HEADER_BYTES 12

enum { DEVICE_FEATURE_SELECT = 0, DEVICE_FEATURE = 4, DRIVER_FEATURE_SELECT = 8, DRIVER_FEATURE = 12, DEVICE_STATUS = 20,
       QUEUE_SELECT = 22, QUEUE_SIZE = 24, QUEUE_ENABLE = 28, QUEUE_NOTIFY_OFF = 30, QUEUE_DESC = 32, QUEUE_DRIVER = 40,
       QUEUE_DEVICE = 48 };
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_DEVICE = 4 };

struct ring {
    struct { u64 address; u32 bytes; u16 flags, next; } desc[RING_SIZE];
    struct { volatile u16 flags, index, ring[RING_SIZE]; u16 event; } avail;
    struct { volatile u16 flags, index; struct { u32 id, bytes; } ring[RING_SIZE]; u16 event; } used __attribute__((aligned(4)));
} __attribute__((aligned(16)));
static struct ring rings[MAX_NICS];

static void write64(u32 address, const void *value) { REG32(address) = (u32)value, REG32(address + 4) = 0; }

static void send(struct nic *nic) {
    struct ring *ring = nic->ring;
    u16 index = nic->sent;
    if ((u16)(index - ring->used.index) >= RING_SIZE) return;
    ring->avail.ring[index % RING_SIZE] = index % RING_SIZE;
    barrier();
    ring->avail.index = index + 1;
    barrier();
    nic->sent++;
    REG16(nic->notify) = TRANSMIT_QUEUE;
}

/* Fill where[type] with the address of each structure; 0 stays where one is missing or out of reach. */
static u32 find_capabilities(const struct pci_device *dev, u32 where[5]) {
    u32 notify_multiplier = 0;
    for (u8 at = pci_read(dev, 0x34) & 0xfc; at; at = pci_read(dev, at + 1) & 0xfc) {
        u8 type = pci_read(dev, at + 3) & 0xff, bar = pci_read(dev, at + 4) & 0xff;
        if ((pci_read(dev, at) & 0xff) != 9 || type < CAP_COMMON || type > CAP_DEVICE || bar > 5 || where[type]) continue;
        u32 base = pci_bar(dev, bar);
        if (base) where[type] = base + pci_read(dev, at + 8);
        if (type == CAP_NOTIFY) notify_multiplier = pci_read(dev, at + 16);
    }
    return notify_multiplier;
}

static int negotiate(u32 common) {
    REG8(common + DEVICE_STATUS) = 0;
    while (REG8(common + DEVICE_STATUS));
    REG8(common + DEVICE_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    for (u32 word = 0; word < 2; word++) {
        REG32(common + DEVICE_FEATURE_SELECT) = REG32(common + DRIVER_FEATURE_SELECT) = word;
        REG32(common + DRIVER_FEATURE) = REG32(common + DEVICE_FEATURE) & (word ? FEATURE_VERSION_1 : FEATURE_MAC);
    }
    REG8(common + DEVICE_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
    return REG8(common + DEVICE_STATUS) & STATUS_FEATURES_OK;
}

int virtio_net_probe(const struct pci_device *dev, struct nic *nic, int index) {
    if (dev->vendor != 0x1af4 || (dev->device != 0x1000 && dev->device != 0x1041)) return 0;
    u32 where[5] = {0};
    u32 multiplier = find_capabilities(dev, where), common = where[CAP_COMMON];
    struct ring *ring = &rings[index];
    pci_enable(dev);
    if (!common || !where[CAP_NOTIFY] || !where[CAP_DEVICE] || !negotiate(common)) {
        put("NIC virtio out of reach\n");
        return 0;
    }
    for (int i = 0; i < 6; i++) nic->mac[i] = REG8(where[CAP_DEVICE] + i);
    for (int i = 0; i < RING_SIZE; i++) {
        ring->desc[i].address = (u32)(nic->frames + i * 128);
        ring->desc[i].bytes = NET_HEADER_BYTES + FRAME_BYTES;
    }
    ring->avail.flags = 1; /* no interrupts */
    REG16(common + QUEUE_SELECT) = TRANSMIT_QUEUE;
    REG16(common + QUEUE_SIZE) = RING_SIZE;
    write64(common + QUEUE_DESC, ring->desc);
    write64(common + QUEUE_DRIVER, &ring->avail);
    write64(common + QUEUE_DEVICE, &ring->used);
    nic->notify = where[CAP_NOTIFY] + REG16(common + QUEUE_NOTIFY_OFF) * multiplier;
    REG16(common + QUEUE_ENABLE) = 1;
    REG8(common + DEVICE_STATUS) = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
    nic->driver = "virtio", nic->header_bytes = NET_HEADER_BYTES, nic->ring = ring, nic->send = send;
    return 1;
}
