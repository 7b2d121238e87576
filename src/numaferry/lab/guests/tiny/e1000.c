/* Intel 8254x (QEMU's e1000) and 82574 (e1000e): legacy transmit descriptors alone. */
#include "tiny.h"

enum { CONTROL = 0x0, INTERRUPT_MASK_CLEAR = 0xd8, TX_CONTROL = 0x400, TX_BASE = 0x3800, TX_BASE_HIGH = 0x3804,
       TX_BYTES = 0x3808, TX_HEAD = 0x3810, TX_TAIL = 0x3818, RECEIVE_ADDRESS = 0x5400 };
#define CONTROL_LINK_UP (1u << 6)
#define TX_ENABLE_AND_PAD 0x0au
#define COMMAND_END_CHECKSUM_REPORT 0x0b
#define STATUS_DONE 1

struct descriptor { u64 address; u16 bytes; u8 checksum_offset, command; volatile u8 status; u8 checksum_start; u16 special; };
static struct descriptor rings[MAX_NICS][RING_SIZE] __attribute__((aligned(128)));

static void send(struct nic *nic) {
    struct descriptor *slot = (struct descriptor *)nic->ring + nic->sent % RING_SIZE;
    if (!(slot->status & STATUS_DONE)) return;
    slot->status = 0;
    barrier();
    nic->sent++;
    REG32(nic->registers + TX_TAIL) = nic->sent % RING_SIZE;
}

int e1000_probe(const struct pci_device *dev, struct nic *nic, int index) {
    if (dev->vendor != 0x8086 || (dev->device != 0x100e && dev->device != 0x10d3)) return 0;
    u32 base = pci_bar(dev, 0);
    if (!base) {
        put("NIC e1000 out of reach\n");
        return 0;
    }
    pci_enable(dev);
    REG32(base + INTERRUPT_MASK_CLEAR) = 0xffffffff;
    REG32(base + CONTROL) |= CONTROL_LINK_UP;
    for (int i = 0; i < 6; i++) nic->mac[i] = REG32(base + RECEIVE_ADDRESS + (i & 4)) >> (i & 3) * 8;
    for (int i = 0; i < RING_SIZE; i++)
        rings[index][i] = (struct descriptor){.address = (u32)(nic->frames + i * 128), .bytes = FRAME_BYTES,
                                              .command = COMMAND_END_CHECKSUM_REPORT, .status = STATUS_DONE};
    REG32(base + TX_BASE) = (u32)rings[index];
    REG32(base + TX_BASE_HIGH) = 0;
    REG32(base + TX_BYTES) = sizeof rings[index];
    REG32(base + TX_HEAD) = REG32(base + TX_TAIL) = 0;
    REG32(base + TX_CONTROL) = TX_ENABLE_AND_PAD;
    nic->driver = "e1000", nic->header_bytes = 0, nic->ring = rings[index], nic->registers = base, nic->send = send;
    return 1;
}
