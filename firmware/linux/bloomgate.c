// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * bloomgate: one character device for each slot of the commit-validation co-processor, and one for page 0.
 *
 * What UIO cannot give: a slot's owner gets a buffer that is cached and that the co-processor sees coherently through the
 * ACP, and can reach no other memory with it, because base and size of the slot's window are programmed here. The last
 * close, also by the death of the process, stops the slot's queue, waits until nothing of it is on the bus any more,
 * and only then frees the buffer. A buffer whose queue does not come to rest is kept for ever, with its slot.
 *
 * Locks: `lock` of the device orders accesses to page 0 that belong together. A slot is opened by one file at a time,
 * so its own fields need none beyond `open`.
 */
#include <linux/atomic.h>
#include <linux/cdev.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/jiffies.h>
#include <linux/kobject.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/platform_device.h>
#include <linux/poll.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/wait.h>

#include "bloomgate_queues.h"
#include "bloomgate_registers.h"
#include "bloomgate_uapi.h"
#include "fabric.h"

static unsigned int buffer_kib = 256;
module_param(buffer_kib, uint, 0444);
MODULE_PARM_DESC(buffer_kib, "KiB of the buffer that each open slot gets (default 256)");

/* Far longer than any request or burst takes. */
#define PATIENCE (HZ)

#define FIELD(word, name) (((word) & BLOOMGATE_##name##_MASK) >> BLOOMGATE_##name##_SHIFT)

struct bloomgate_slot {
	struct bloomgate *device;
	/* 0 for page 0, else 1 + the slot's number. */
	unsigned int page;
	/* Bit 0: open. */
	unsigned long open;
	u16 generation;
	void *buffer;
	dma_addr_t address;
	size_t bytes;
	/* The number of wake-ups that the last read() has seen. */
	u32 seen;
	/* Of the node that is open: where its mappings are found. */
	struct address_space *mapping;
};

struct bloomgate {
	struct device *parent;
	void __iomem *control;
	phys_addr_t base;
	dev_t first;
	struct cdev cdev;
	unsigned int pages;
	/* The register of that name, 0 in gateware that has none. */
	u32 queue_capacity;
	/* Of each ring; 0 without queues. */
	unsigned int queue_entries;
	/* Between remove and the last close the registers may be gone. */
	bool gone;
	/* Held by the driver, and by `cdev` for as long as a file of it is open. */
	struct kobject lifetime;
	struct mutex lock;
	wait_queue_head_t waiting;
	atomic_t wakeups;
	struct bloomgate_slot slots[];
};

static struct class *bloomgate_class;

static u32 load(struct bloomgate *device, u32 offset)
{
	return readl(device->control + offset);
}

static void store(struct bloomgate *device, u32 offset, u32 word)
{
	writel(word, device->control + offset);
}

static u32 record(const struct bloomgate_slot *slot, u32 offset)
{
	return BLOOMGATE_CONTROL_QUEUE_RECORDS + (slot->page - 1) * BLOOMGATE_QUEUE_RECORD_BYTES + offset;
}

static void device_release(struct kobject *lifetime)
{
	struct bloomgate *device = container_of(lifetime, struct bloomgate, lifetime);

	put_device(device->parent);
	kfree(device);
}

static struct kobj_type device_type = {.release = device_release};

/* The queue. */

/* Write QUEUE_CONTROL, and wait until it is in effect: then nothing of the owner before is on the bus. */
static int queue_control(struct bloomgate_slot *slot, u32 control, u32 enabled)
{
	u32 mask = BLOOMGATE_QUEUE_QUEUE_STATUS_ENABLED_MASK | BLOOMGATE_QUEUE_QUEUE_STATUS_DRAINING_MASK;
	unsigned long deadline = jiffies + PATIENCE;

	store(slot->device, record(slot, BLOOMGATE_QUEUE_QUEUE_CONTROL), control);
	while ((load(slot->device, record(slot, BLOOMGATE_QUEUE_QUEUE_STATUS)) & mask) != enabled) {
		if (time_after(jiffies, deadline))
			return -EBUSY;
		usleep_range(10, 50);
	}
	return 0;
}

static int queue_stop(struct bloomgate_slot *slot)
{
	int error = queue_control(slot, 0, 0);

	if (!error)
		store(slot->device, record(slot, BLOOMGATE_QUEUE_WINDOW_SIZE), 0);
	return error;
}

/* A new beginning for the slot's owner, who finds empty rings. */
static int queue_start(struct bloomgate_slot *slot)
{
	struct bloomgate *device = slot->device;
	int error = queue_stop(slot);

	if (error)
		return error;
	memset(slot->buffer, 0, 2 * device->queue_entries * BLOOMGATE_ENTRY_BYTES);
	if (++slot->generation == 0)
		slot->generation = 1;
	store(device, record(slot, BLOOMGATE_QUEUE_WINDOW_BASE), lower_32_bits(slot->address));
	store(device, record(slot, BLOOMGATE_QUEUE_WINDOW_SIZE), slot->bytes);
	return queue_control(slot,
			     BLOOMGATE_QUEUE_QUEUE_CONTROL_ENABLE_MASK |
				     (u32)slot->generation << BLOOMGATE_QUEUE_QUEUE_CONTROL_GENERATION_SHIFT,
			     BLOOMGATE_QUEUE_QUEUE_STATUS_ENABLED_MASK);
}

/* False if the co-processor may still write to it: then the slot and its buffer stay out of use. */
static bool buffer_free(struct bloomgate_slot *slot)
{
	struct bloomgate *device = slot->device;

	if (!slot->buffer)
		return true;
	if (!device->gone && queue_stop(slot)) {
		dev_err(device->parent, "slot %u does not come to rest; it and its buffer stay out of use\n",
			slot->page - 1);
		return false;
	}
	dma_free_coherent(device->parent, slot->bytes, slot->buffer, slot->address);
	slot->buffer = NULL;
	return true;
}

/* Files. */

static int slot_open(struct inode *inode, struct file *file)
{
	struct bloomgate *device = container_of(inode->i_cdev, struct bloomgate, cdev);
	struct bloomgate_slot *slot = &device->slots[iminor(inode) - MINOR(device->first)];
	int error = 0;

	if (test_and_set_bit(0, &slot->open))
		return -EBUSY;
	mutex_lock(&device->lock);
	if (device->gone) {
		error = -ENODEV;
		goto out;
	}
	if (slot->page && device->queue_entries) {
		/* Cleared: nothing of an earlier owner is in it. Cached, since the device tree says dma-coherent. */
		slot->buffer = dma_alloc_coherent(device->parent, slot->bytes, &slot->address, GFP_KERNEL);
		if (!slot->buffer) {
			error = -ENOMEM;
			goto out;
		}
		error = queue_start(slot);
		if (error && !buffer_free(slot)) {
			/* Nobody can open it again. */
			mutex_unlock(&device->lock);
			return error;
		}
	}
out:
	if (error) {
		clear_bit(0, &slot->open);
	} else {
		slot->seen = atomic_read(&device->wakeups);
		slot->mapping = inode->i_mapping;
		file->private_data = slot;
		error = nonseekable_open(inode, file);
	}
	mutex_unlock(&device->lock);
	return error;
}

/* The last close: every mapping is gone, since a mapping holds the file. */
static int slot_release(struct inode *inode, struct file *file)
{
	struct bloomgate_slot *slot = file->private_data;
	struct bloomgate *device = slot->device;

	mutex_lock(&device->lock);
	slot->mapping = NULL;
	if (buffer_free(slot))
		clear_bit(0, &slot->open);
	mutex_unlock(&device->lock);
	return 0;
}

static int slot_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct bloomgate_slot *slot = file->private_data;
	struct bloomgate *device = slot->device;
	unsigned long bytes = vma->vm_end - vma->vm_start;

	if (device->gone)
		return -ENODEV;
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma->vm_pgoff == BLOOMGATE_MAP_PAGE >> PAGE_SHIFT) {
		if (bytes != BLOOMGATE_PAGE_BYTES)
			return -EINVAL;
		/* Device memory: the processor need not wait for each store, as it would for pgprot_noncached's. */
		vma->vm_page_prot = pgprot_device(vma->vm_page_prot);
		return io_remap_pfn_range(vma, vma->vm_start,
					  PHYS_PFN(device->base + slot->page * BLOOMGATE_PAGE_BYTES), bytes,
					  vma->vm_page_prot);
	}
	if (vma->vm_pgoff == BLOOMGATE_MAP_BUFFER >> PAGE_SHIFT && slot->buffer && bytes <= slot->bytes) {
		/* dma_mmap_coherent counts pages from the start of the buffer. */
		vma->vm_pgoff = 0;
		return dma_mmap_coherent(device->parent, vma, slot->buffer, slot->address, slot->bytes);
	}
	return -EINVAL;
}

static int slot_restart(struct bloomgate_slot *slot)
{
	struct bloomgate *device = slot->device;
	int error = -ENODEV;

	mutex_lock(&device->lock);
	if (!device->gone && slot->buffer)
		error = queue_start(slot);
	mutex_unlock(&device->lock);
	return error;
}

static long slot_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct bloomgate_slot *slot = file->private_data;
	struct bloomgate *device = slot->device;
	struct bloomgate_info info = {};
	unsigned int i;

	if (command == BLOOMGATE_RESTART_QUEUE)
		return slot_restart(slot);
	if (command != BLOOMGATE_GET_INFO)
		return -ENOTTY;
	mutex_lock(&device->lock);
	if (device->gone) {
		mutex_unlock(&device->lock);
		return -ENODEV;
	}
	info.generation = slot->generation;
	info.buffer_bytes = slot->buffer ? slot->bytes : 0;
	for (i = 0; i < ARRAY_SIZE(info.identity); i++)
		info.identity[i] = load(device, BLOOMGATE_CONTROL_IDENTIFICATION + 4 * i);
	info.queue_capacity = device->queue_capacity;
	do { /* The epoch may end between the words. */
		info.epoch = load(device, BLOOMGATE_CONTROL_EPOCH);
		info.count = load(device, BLOOMGATE_CONTROL_COUNT);
	} while (load(device, BLOOMGATE_CONTROL_EPOCH) != info.epoch);
	mutex_unlock(&device->lock);
	return copy_to_user((void __user *)argument, &info, sizeof(info)) ? -EFAULT : 0;
}

/* Causes that wake waiters. */
#define WAKING                                                                                                         \
	(BLOOMGATE_CONTROL_INTERRUPT_ENABLE_VERDICT_MASK | BLOOMGATE_CONTROL_INTERRUPT_ENABLE_COMPLETION_MASK |        \
	 BLOOMGATE_CONTROL_INTERRUPT_ENABLE_WAKE_MASK)

static ssize_t slot_read(struct file *file, char __user *to, size_t bytes, loff_t *position)
{
	struct bloomgate_slot *slot = file->private_data;
	struct bloomgate *device = slot->device;
	u32 count;

	if (bytes != sizeof(count))
		return -EINVAL;
	mutex_lock(&device->lock);
	if (device->gone) {
		mutex_unlock(&device->lock);
		return -ENODEV;
	}
	/* In this order: a decision after the count is read changes it. */
	count = atomic_read(&device->wakeups);
	store(device, BLOOMGATE_CONTROL_INTERRUPT_ENABLE, WAKING);
	mutex_unlock(&device->lock);
	slot->seen = count;
	return copy_to_user(to, &count, sizeof(count)) ? -EFAULT : sizeof(count);
}

static __poll_t slot_poll(struct file *file, poll_table *table)
{
	struct bloomgate_slot *slot = file->private_data;
	struct bloomgate *device = slot->device;

	poll_wait(file, &device->waiting, table);
	if (device->gone)
		return EPOLLERR | EPOLLHUP;
	return (u32)atomic_read(&device->wakeups) != slot->seen ? EPOLLIN | EPOLLRDNORM : 0;
}

static const struct file_operations slot_operations = {
	.owner = THIS_MODULE,
	.open = slot_open,
	.release = slot_release,
	.mmap = slot_mmap,
	.unlocked_ioctl = slot_ioctl,
	.read = slot_read,
	.poll = slot_poll,
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
	.llseek = no_llseek,
#endif
};

/* One interrupt for each arming: whoever waits arms again, and whoever polls is not disturbed. */
static irqreturn_t on_interrupt(int number, void *data)
{
	struct bloomgate *device = data;
	u32 causes = load(device, BLOOMGATE_CONTROL_INTERRUPT_PENDING);

	if (!(causes & load(device, BLOOMGATE_CONTROL_INTERRUPT_ENABLE)))
		return IRQ_NONE;
	store(device, BLOOMGATE_CONTROL_INTERRUPT_ENABLE, 0);
	store(device, BLOOMGATE_CONTROL_INTERRUPT_PENDING, causes);
	/* Also keeps the stores from being on their way when the line is enabled again. */
	load(device, BLOOMGATE_CONTROL_INTERRUPT_PENDING);
	atomic_inc(&device->wakeups);
	wake_up_interruptible(&device->waiting);
	return IRQ_HANDLED;
}

/* The device. */

static int identify(struct device *parent, void __iomem *control, u32 *slots)
{
	u32 identification = readl(control + BLOOMGATE_CONTROL_IDENTIFICATION);
	u32 version = readl(control + BLOOMGATE_CONTROL_VERSION);

	if (identification != BLOOMGATE_IDENTIFICATION)
		return dev_err_probe(parent, -ENODEV, "identification %#010x is not bloomgate's\n", identification);
	if (FIELD(version, CONTROL_VERSION_MAJOR) != BLOOMGATE_VERSION_MAJOR)
		return dev_err_probe(parent, -ENODEV, "register interface %u, and this module speaks %u\n",
				     FIELD(version, CONTROL_VERSION_MAJOR), BLOOMGATE_VERSION_MAJOR);
	*slots = FIELD(readl(control + BLOOMGATE_CONTROL_CAPACITY), CONTROL_CAPACITY_SLOTS);
	if (*slots == 0 || *slots > 32)
		return dev_err_probe(parent, -ENODEV, "%u slots cannot be\n", *slots);
	return 0;
}

/* The registers of queues are read only where there are any: an access to a hole is an abort. */
static void find_queues(struct bloomgate *device)
{
	u32 version = load(device, BLOOMGATE_CONTROL_VERSION);

	if (FIELD(version, CONTROL_VERSION_MAJOR) == 0 && FIELD(version, CONTROL_VERSION_MINOR) < 2)
		return;
	device->queue_capacity = load(device, BLOOMGATE_CONTROL_QUEUE_CAPACITY);
	if (FIELD(device->queue_capacity, CONTROL_QUEUE_CAPACITY_REQUEST_BUFFERS) == 0)
		return;
	if (FIELD(device->queue_capacity, CONTROL_QUEUE_CAPACITY_UNCACHED))
		/* The buffers here are cached, and it would not see what the caches have. */
		dev_warn(device->parent, "no queues, since the gateware is on S_AXI_HP0\n");
	else
		device->queue_entries = 1u << FIELD(device->queue_capacity, CONTROL_QUEUE_CAPACITY_LOG2_ENTRIES);
}

static void remove_nodes(struct bloomgate *device, unsigned int pages)
{
	while (pages-- > 0)
		device_destroy(bloomgate_class, device->first + pages);
}

static int make_nodes(struct bloomgate *device)
{
	unsigned int page;

	for (page = 0; page < device->pages; page++) {
		dev_t number = device->first + page;
		struct device *made =
			page ? device_create(bloomgate_class, device->parent, number, device, "bloomgate-slot%u", page - 1) :
			       device_create(bloomgate_class, device->parent, number, device, "bloomgate-control");

		if (IS_ERR(made)) {
			remove_nodes(device, page);
			return PTR_ERR(made);
		}
	}
	return 0;
}

static int bloomgate_probe(struct platform_device *platform)
{
	struct device *parent = &platform->dev;
	struct bloomgate *device;
	struct resource *region;
	void __iomem *control;
	unsigned int page;
	u32 slots;
	int error, interrupt;

	region = platform_get_resource(platform, IORESOURCE_MEM, 0);
	if (!region)
		return -EINVAL;
	/* Page 0 alone: the kernel has no use for the others. */
	control = devm_ioremap(parent, region->start, BLOOMGATE_PAGE_BYTES);
	if (!control)
		return -ENOMEM;
	error = fabric_answers(parent);
	if (error)
		return error;
	error = identify(parent, control, &slots);
	if (error)
		return error;
	if (resource_size(region) < (1 + slots) * BLOOMGATE_PAGE_BYTES)
		return dev_err_probe(parent, -EINVAL, "the region has no room for %u slots\n", slots);
	error = dma_set_mask_and_coherent(parent, DMA_BIT_MASK(32));
	if (error)
		return error;

	device = kzalloc(struct_size(device, slots, 1 + slots), GFP_KERNEL);
	if (!device)
		return -ENOMEM;
	kobject_init(&device->lifetime, &device_type);
	mutex_init(&device->lock);
	init_waitqueue_head(&device->waiting);
	/* Its DMA memory is freed by the last close, which may come after remove. */
	device->parent = get_device(parent);
	device->control = control;
	device->base = region->start;
	device->pages = 1 + slots;
	find_queues(device);
	for (page = 0; page < device->pages; page++) {
		device->slots[page].device = device;
		device->slots[page].page = page;
		device->slots[page].bytes = (size_t)buffer_kib * SZ_1K;
	}
	platform_set_drvdata(platform, device);

	store(device, BLOOMGATE_CONTROL_INTERRUPT_ENABLE, 0);
	interrupt = platform_get_irq(platform, 0);
	if (interrupt < 0) {
		error = interrupt;
		goto free;
	}
	error = devm_request_irq(parent, interrupt, on_interrupt, 0, "bloomgate", device);
	if (error)
		goto free;

	error = alloc_chrdev_region(&device->first, 0, device->pages, "bloomgate");
	if (error)
		goto free;
	cdev_init(&device->cdev, &slot_operations);
	device->cdev.owner = THIS_MODULE;
	/* The kernel uses the cdev once more after the last release(). */
	cdev_set_parent(&device->cdev, &device->lifetime);
	error = cdev_add(&device->cdev, device->first, device->pages);
	if (error)
		goto unregister;
	error = make_nodes(device);
	if (error)
		goto delete;
	dev_info(parent, "%u slots%s\n", slots, device->queue_entries ? " with queues" : "");
	return 0;

delete:
	cdev_del(&device->cdev);
unregister:
	unregister_chrdev_region(device->first, device->pages);
free:
	kobject_put(&device->lifetime);
	return error;
}

/*
 * The overlay goes away, and with it perhaps the configuration. Open slots are stopped now and their mappings become
 * unusable; their buffers are freed by the last close.
 */
static void bloomgate_stop(struct bloomgate *device)
{
	unsigned int page;

	remove_nodes(device, device->pages);
	mutex_lock(&device->lock);
	store(device, BLOOMGATE_CONTROL_INTERRUPT_ENABLE, 0);
	for (page = 0; page < device->pages; page++) {
		struct bloomgate_slot *slot = &device->slots[page];

		/* A program that goes on gets SIGBUS, and not an access that nothing may answer. */
		if (slot->mapping)
			unmap_mapping_range(slot->mapping, 0, 0, 1);
		if (slot->buffer && queue_stop(slot)) {
			dev_err(device->parent, "slot %u does not come to rest; its buffer is kept for ever\n",
				page - 1);
			slot->buffer = NULL;
		}
	}
	device->gone = true;
	mutex_unlock(&device->lock);
	wake_up_interruptible(&device->waiting);
	cdev_del(&device->cdev);
	unregister_chrdev_region(device->first, device->pages);
	kobject_put(&device->lifetime);
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
static int bloomgate_remove(struct platform_device *platform)
{
	bloomgate_stop(platform_get_drvdata(platform));
	return 0;
}
#else
static void bloomgate_remove(struct platform_device *platform)
{
	bloomgate_stop(platform_get_drvdata(platform));
}
#endif

static const struct of_device_id bloomgate_matches[] = {{.compatible = "bloomgate,bloomgate"}, {}};
MODULE_DEVICE_TABLE(of, bloomgate_matches);

static struct platform_driver bloomgate_driver = {
	.probe = bloomgate_probe,
	.remove = bloomgate_remove,
	.driver =
		{
			.name = "bloomgate",
			.of_match_table = bloomgate_matches,
			/* Not by hand while slots are open. */
			.suppress_bind_attrs = true,
		},
};

static int __init bloomgate_init(void)
{
	int error;

	if (buffer_kib < 4 || buffer_kib > 4096 || (buffer_kib * SZ_1K) % PAGE_SIZE)
		return -EINVAL;
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
	bloomgate_class = class_create(THIS_MODULE, "bloomgate");
#else
	bloomgate_class = class_create("bloomgate");
#endif
	if (IS_ERR(bloomgate_class))
		return PTR_ERR(bloomgate_class);
	error = platform_driver_register(&bloomgate_driver);
	if (error)
		class_destroy(bloomgate_class);
	return error;
}
module_init(bloomgate_init);

static void __exit bloomgate_exit(void)
{
	platform_driver_unregister(&bloomgate_driver);
	class_destroy(bloomgate_class);
}
module_exit(bloomgate_exit);

MODULE_DESCRIPTION("bloomgate commit-validation co-processor");
MODULE_LICENSE("Dual MIT/GPL");
