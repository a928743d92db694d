/*
 * The lab's guest: writes numbered records to its disks and says each number only when it is safe.
 *
 * It is the init of a Xen or QEMU guest, and the init of a container. Words on the command line (the
 * kernel's /proc/cmdline, or a container's arguments):
 *
 *   records=/dev/xvda        a disk to write to; may be given several times (each record goes to all)
 *   interval_ms=125          the pause between two records
 *   console=/dev/NAME        only in a container: where to print (guests print on their console)
 *
 * It prints whole lines, each in one write, each ending in " ok" so that a torn line cannot be misread:
 *
 *   vmheal-guest boot=0123456789abcdef found=41 ok     at boot: the last record on its disks
 *   vmheal-guest boot=0123456789abcdef record=42 ok    record 42 is on all disks: every write returned
 *   vmheal-guest boot=... failed=42 errno=5 ok         record 42 is not: the write failed; it is tried again
 *
 * A record is a slot of 512 bytes: "vmheal-record NUMBER BOOT CRC32\n", then zeros. Record N lies in slot
 * N modulo SLOTS, so the disk holds the last SLOTS records. The number found is the highest that stands on
 * every disk: what was printed stood on all of them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <dirent.h>

#define SLOT 512
#define SLOTS 16384
#define CHUNK (256 * 1024)
#define MAX_DISKS 8

static int console = 1;
static char boot[17];
static const char *disks[MAX_DISKS];
static int files[MAX_DISKS];
static int disk_count;
static long interval_ms = 125;

static void say(const char *format, ...)
{
	char line[256];
	va_list arguments;
	va_start(arguments, format);
	int length = snprintf(line, sizeof line, "vmheal-guest boot=%s ", boot);
	length += vsnprintf(line + length, sizeof line - length - 8, format, arguments);
	va_end(arguments);
	length += snprintf(line + length, 8, " ok\n");
	ssize_t ignored = write(console, line, length);
	(void)ignored;
}

static void pause_ms(long milliseconds)
{
	struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
	nanosleep(&time, NULL);
}

/* Never return from init: the kernel would panic, and that is a fault which only the tests may cause. */
static void stop_for_ever(const char *why)
{
	say("stopped=%s errno=%d", why, errno);
	for (;;)
		pause();
}

static uint32_t crc32(const char *bytes, size_t length)
{
	uint32_t crc = 0xffffffff;
	for (size_t i = 0; i < length; i++) {
		crc ^= (uint8_t)bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0xedb88320 & -(crc & 1));
	}
	return ~crc;
}

/* The number of the record in this slot, or -1 when there is none or it is damaged. */
static int64_t read_record(const char *slot)
{
	int64_t number;
	char writer[17];
	uint32_t crc;
	int text;
	if (slot[0] != 'v' || memchr(slot, '\n', SLOT) == NULL)
		return -1;
	if (sscanf(slot, "vmheal-record %" SCNd64 " %16[0-9a-f]%n %8" SCNx32 "\n", &number, writer, &text, &crc) != 3)
		return -1;
	return crc == crc32(slot, text) ? number : -1;
}

static int64_t last_record(int disk, char *buffer)
{
	int64_t last = 0;
	for (off_t at = 0; at < (off_t)SLOT * SLOTS; at += CHUNK) {
		if (pread(files[disk], buffer, CHUNK, at) != CHUNK)
			stop_for_ever("unreadable");
		for (int slot = 0; slot < CHUNK / SLOT; slot++) {
			int64_t number = read_record(buffer + slot * SLOT);
			if (number > last)
				last = number;
		}
	}
	return last;
}

static int write_record(int64_t number, char *buffer)
{
	memset(buffer, 0, SLOT);
	int text = snprintf(buffer, SLOT, "vmheal-record %" PRId64 " %s", number, boot);
	snprintf(buffer + text, SLOT - text, " %08" PRIx32 "\n", crc32(buffer, text));
	for (int disk = 0; disk < disk_count; disk++)
		if (pwrite(files[disk], buffer, SLOT, (off_t)SLOT * (number % SLOTS)) != SLOT)
			return -1;
	return 0;
}

static void take_word(char *word)
{
	if (strncmp(word, "records=", 8) == 0 && disk_count < MAX_DISKS)
		disks[disk_count++] = word + 8;
	else if (strncmp(word, "interval_ms=", 12) == 0)
		interval_ms = atol(word + 12);
}

static void load_modules(void)
{
	struct dirent **names;
	int count = scandir("/modules", &names, NULL, alphasort);
	for (int i = 0; i < count; i++) {
		char path[512];
		snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
		int file = open(path, O_RDONLY | O_CLOEXEC);
		if (file >= 0 && names[i]->d_name[0] != '.')
			syscall(SYS_finit_module, file, "", 0); /* another hypervisor's: no harm */
		if (file >= 0)
			close(file);
	}
}

static void become_guest(void)
{
	static char words[4096];
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	console = open("/dev/console", O_RDWR | O_CLOEXEC);
	int sysrq = open("/proc/sys/kernel/sysrq", O_WRONLY | O_CLOEXEC);
	if (sysrq >= 0 && write(sysrq, "1", 1) == 1) /* the tests crash it so */
		close(sysrq);
	int file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t length = read(file, words, sizeof words - 1);
	words[length > 0 ? length : 0] = 0;
	for (char *word = strtok(words, " \n"); word; word = strtok(NULL, " \n"))
		take_word(word);
	load_modules();
}

static void become_container(int count, char **words)
{
	for (int i = 1; i < count; i++) {
		take_word(words[i]);
		if (strncmp(words[i], "console=", 8) == 0)
			console = open(words[i] + 8, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	}
}

/* init ignores signals it has no handler for: without this a container could not be shut down. */
static void leave(int signal)
{
	(void)signal;
	_exit(0);
}

static void power_off(int signal)
{
	(void)signal;
	reboot(RB_POWER_OFF);
}

int main(int count, char **words)
{
	uint64_t id, nanoseconds;
	struct timespec now;
	int contained = access("/modules", F_OK) != 0;
	if (contained)
		become_container(count, words);
	else
		become_guest();
	signal(SIGTERM, contained ? leave : power_off);
	signal(SIGINT, contained ? leave : power_off); /* ctrl-alt-del, which ACPI and Xen send as well */

	if (getrandom(&id, sizeof id, GRND_INSECURE) != sizeof id)
		id = 0;
	clock_gettime(CLOCK_REALTIME, &now);
	nanoseconds = (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	snprintf(boot, sizeof boot, "%016" PRIx64, id ^ nanoseconds);

	char *buffer = aligned_alloc(4096, CHUNK);
	if (buffer == NULL || disk_count == 0)
		stop_for_ever("nothing-to-do");
	int64_t found = INT64_MAX, highest = 0;
	for (int disk = 0; disk < disk_count; disk++) {
		for (int tries = 0; tries < 1500; tries++) {
			files[disk] = open(disks[disk], O_RDWR | O_DIRECT | O_SYNC | O_CLOEXEC);
			if (files[disk] >= 0)
				break;
			pause_ms(20);
		}
		if (files[disk] < 0)
			stop_for_ever("no-disk");
		int64_t last = last_record(disk, buffer);
		found = last < found ? last : found;
		highest = last > highest ? last : highest;
	}
	say("found=%" PRId64, found);

	for (int64_t number = highest + 1;;) {
		if (write_record(number, buffer) == 0) {
			say("record=%" PRId64, number);
			number++;
		} else {
			say("failed=%" PRId64 " errno=%d", number, errno);
		}
		pause_ms(interval_ms);
	}
}
