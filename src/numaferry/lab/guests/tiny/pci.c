/* PCI configuration space by ports, and a walk over the buses that the firmware numbered. */
#include "tiny.h"

static void select(const struct pci_device *dev, u8 offset) {
    outl(0xcf8, 0x80000000u | dev->bus << 16 | dev->slot << 11 | dev->function << 8 | (offset & 0xfc));
}

u32 pci_read(const struct pci_device *dev, u8 offset) { select(dev, offset); return inl(0xcfc) >> (offset & 3) * 8; }
void pci_write(const struct pci_device *dev, u8 offset, u32 value) { select(dev, offset); outl(0xcfc, value); }

u32 pci_bar(const struct pci_device *dev, int bar) {
    u32 low = pci_read(dev, 0x10 + 4 * bar);
    if (low & 1) return 0;
    if ((low & 6) == 4 && pci_read(dev, 0x14 + 4 * bar)) return 0;
    return low & ~15u;
}

void pci_enable(const struct pci_device *dev) { pci_write(dev, 4, (pci_read(dev, 4) & 0xffff) | 0x406); }

static void scan_bus(u8 bus, void (*found)(const struct pci_device *)) {
    for (int slot = 0; slot < 32; slot++)
        for (int function = 0; function < 8; function++) {
            struct pci_device dev = {bus, slot, function, 0, 0};
            u32 id = pci_read(&dev, 0), header;
            if ((id & 0xffff) == 0xffff) {
                if (!function) break;
                continue;
            }
            dev.vendor = id & 0xffff, dev.device = id >> 16;
            header = pci_read(&dev, 0x0e) & 0xff;
            found(&dev);
            if ((header & 0x7f) == 1) {
                u8 secondary = pci_read(&dev, 0x19) & 0xff;
                if (secondary > bus) scan_bus(secondary, found);
            }
            if (!function && !(header & 0x80)) break;
        }
}

void pci_scan(void (*found)(const struct pci_device *)) { scan_bus(0, found); }
