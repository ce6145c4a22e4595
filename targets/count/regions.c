/* A QEMU TCG plugin that counts executed instructions, exactly, between two functions of the guest.
 *
 * Arguments: begin=HEX,end=HEX (addresses of the two marker functions),out=FILE. Each passage from `begin` to `end` is a
 * region; FILE gets "# region NUMBER insns COUNT" for each and, for the last one, "ADDRESS COUNT" per instruction. The
 * marker calls themselves add a handful of instructions.
 *
 * Every translated instruction increments a counter of its own, inline; a region is the difference of two snapshots. */
#include "qemu-plugin.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = 1;

/* Counters by address: pages of 64 KB of code, one counter per half-word. */
#define PAGE_BITS 16
#define SLOTS (1 << (PAGE_BITS - 1))
typedef struct {
  uint64_t now[SLOTS], at_begin[SLOTS], region[SLOTS];
} Page;
static Page *pages[1 << (32 - PAGE_BITS)];

#define MAX_REGIONS 65536
static uint64_t begin_address, end_address, regions[MAX_REGIONS];
static int region_count;
static char out[512] = "regions.txt";

#define FOR_EACH_PAGE(i) for (unsigned i = 0; i < sizeof pages / sizeof *pages; i++) if (pages[i])

static void on_begin(unsigned vcpu, void *data) {
  FOR_EACH_PAGE(i) memcpy(pages[i]->at_begin, pages[i]->now, sizeof pages[i]->now);
}

static void on_end(unsigned vcpu, void *data) {
  uint64_t sum = 0;
  FOR_EACH_PAGE(i) for (int j = 0; j < SLOTS; j++) sum += pages[i]->region[j] = pages[i]->now[j] - pages[i]->at_begin[j];
  if (region_count < MAX_REGIONS) regions[region_count++] = sum;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  size_t n = qemu_plugin_tb_n_insns(block);
  for (size_t i = 0; i < n; i++) {
    struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
    uint64_t address = qemu_plugin_insn_vaddr(insn) & 0xffffffff;
    Page **page = &pages[address >> PAGE_BITS];
    if (!*page && !(*page = calloc(1, sizeof(Page)))) abort();
    qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &(*page)->now[(address & 0xffff) >> 1], 1);
    if (address == begin_address) qemu_plugin_register_vcpu_insn_exec_cb(insn, on_begin, QEMU_PLUGIN_CB_NO_REGS, 0);
    if (address == end_address) qemu_plugin_register_vcpu_insn_exec_cb(insn, on_end, QEMU_PLUGIN_CB_NO_REGS, 0);
  }
}

static void write_counts(qemu_plugin_id_t id, void *data) {
  FILE *f = fopen(out, "w");
  if (!f) { perror(out); return; }
  for (int i = 0; i < region_count; i++) fprintf(f, "# region %d insns %llu\n", i, (unsigned long long)regions[i]);
  FOR_EACH_PAGE(i) for (unsigned j = 0; j < SLOTS; j++)
    if (pages[i]->region[j]) fprintf(f, "%08x %llu\n", (i << PAGE_BITS) | (j << 1), (unsigned long long)pages[i]->region[j]);
  fclose(f);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
  for (int i = 0; i < argc; i++) {
    if (!strncmp(argv[i], "begin=", 6)) begin_address = strtoull(argv[i] + 6, 0, 16) & ~1ull;
    else if (!strncmp(argv[i], "end=", 4)) end_address = strtoull(argv[i] + 4, 0, 16) & ~1ull;
    else if (!strncmp(argv[i], "out=", 4)) snprintf(out, sizeof out, "%s", argv[i] + 4);
    else return -1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, write_counts, 0);
  return 0;
}
