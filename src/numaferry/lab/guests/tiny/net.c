/* A broadcast frame per tick on every network device that a driver here knows. Nothing is received. */
#include "tiny.h"

static struct nic nics[MAX_NICS];
static volatile u8 frames[MAX_NICS][RING_SIZE * 128] __attribute__((aligned(16)));
static int count;

static void prepare(struct nic *nic) {
    static const u8 payload[] = {0x88, 0xb5, 'n', 'u', 'm', 'a', 'f', 'e', 'r', 'r', 'y'}; /* local experimental type */
    for (int slot = 0; slot < RING_SIZE; slot++) {
        volatile u8 *frame = nic->frames + slot * 128 + nic->header_bytes;
        for (int i = 0; i < 6; i++) frame[i] = 0xff, frame[6 + i] = nic->mac[i];
        for (u32 i = 0; i < sizeof payload; i++) frame[12 + i] = payload[i];
    }
}

static void try_device(const struct pci_device *dev) {
    if (count == MAX_NICS) return;
    struct nic *nic = &nics[count];
    nic->frames = frames[count];
    if (!virtio_net_probe(dev, nic, count) && !e1000_probe(dev, nic, count)) return;
    prepare(nic);
    count++;
    put("NIC "), put(nic->driver);
    for (int i = 0; i < 6; i++) {
        char octet[4] = {i ? ':' : ' ', "0123456789abcdef"[nic->mac[i] >> 4], "0123456789abcdef"[nic->mac[i] & 15], 0};
        put(octet);
    }
    put("\n");
}

void net_init(void) { pci_scan(try_device); }

void net_send(u32 counter) {
    for (int n = 0; n < count; n++) {
        struct nic *nic = &nics[n];
        volatile u8 *at = nic->frames + nic->sent % RING_SIZE * 128 + nic->header_bytes + 23;
        for (int i = 0; i < 4; i++) at[i] = counter >> (24 - 8 * i);
        nic->send(nic);
    }
}
