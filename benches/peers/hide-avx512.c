/* LD_AUDIT=… of a runtime: it hides AVX-512 and AMX from it, so that a CPU with them can stand for one with AVX2.

   Few systems let a program trap the CPUID instruction. So the loader, which shows an auditor each library before its first line
   runs, has the instruction replaced by one that always traps (UD2, two bytes as well); the handler executes it and clears the
   bits. Where it stands, a list beside this library tells: "file<tab>address address ..." in hexadecimal, as cpuid.py writes it.
   XGETBV still tells that the system saves the wide registers: no runtime goes by that alone. The C library
   has chosen its copies before, which is of no weight here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

enum { A, B, C, D };

/* Bits of leaf 7: AVX-512 in its parts; in D also AMX, and in the first subleaf bf16, AMX's fp16 and AVX10. */
static const unsigned leaf7[2][4] = {{0, 0xDC230000u, 0x00005842u, 0x03C0010Cu}, {0x00200020u, 0, 0, 0x00080000u}};

static const unsigned char cpuid[2] = {0x0F, 0xA2}, ud2[2] = {0x0F, 0x0B};

static void end(const char *what, const char *which) {
    dprintf(2, "error: AVX-512 can't be hidden: %s %s\n", what, which);
    _exit(1);
}

static void trapped(int number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (memcmp((const void *)registers[REG_RIP], ud2, 2)) { /* a fault of the program's own: it happens again, and ends it */
        signal(number, SIG_DFL);
        return;
    }
    unsigned leaf = (unsigned)registers[REG_RAX], subleaf = (unsigned)registers[REG_RCX], r[4];
    __asm__ volatile("cpuid" : "=a"(r[A]), "=b"(r[B]), "=c"(r[C]), "=d"(r[D]) : "a"(leaf), "c"(subleaf));
    if (leaf == 7 && subleaf < 2)
        for (int i = 0; i < 4; i++) r[i] &= ~leaf7[subleaf][i];
    registers[REG_RAX] = r[A], registers[REG_RBX] = r[B], registers[REG_RCX] = r[C], registers[REG_RDX] = r[D];
    registers[REG_RIP] += 2;
}

static char *list; /* the whole of it */

static void read_list(void) {
    Dl_info self;
    char path[4096];
    if (!dladdr((void *)trapped, &self)) end("this library has no path", "");
    snprintf(path, sizeof path, "%.*s.txt", (int)(strlen(self.dli_fname) - 3), self.dli_fname);
    FILE *file = fopen(path, "r");
    if (!file || fseek(file, 0, SEEK_END)) end("no list", path);
    long size = ftell(file);
    rewind(file);
    list = calloc((size_t)size + 1, 1);
    if (!list || fread(list, 1, (size_t)size, file) != (size_t)size) end("can't read", path);
    fclose(file);
}

/* Replaces the instructions of one file, which lies `moved` bytes from where it was linked to. */
static void patch(const char *name, size_t moved) {
    size_t length = strlen(name), page = (size_t)sysconf(_SC_PAGESIZE);
    char *line = list;
    while (line && !(strncmp(line, name, length) == 0 && line[length] == '\t')) line = (line = strchr(line, '\n')) ? line + 1 : 0;
    if (!line) return;
    for (char *at = line + length + 1; *at && *at != '\n';) {
        unsigned char *code = (unsigned char *)(strtoull(at, &at, 16) + moved);
        while (*at == ' ') at++;
        void *start = (void *)((size_t)code & ~(page - 1));
        size_t whole = (size_t)(code + 2 - (unsigned char *)start);
        if (mprotect(start, whole, PROT_READ | PROT_WRITE | PROT_EXEC)) end("no right to write to", name);
        if (memcmp(code, cpuid, 2)) end("another file than the list is of:", name);
        memcpy(code, ud2, 2);
        mprotect(start, whole, PROT_READ | PROT_EXEC);
    }
}

unsigned la_version(unsigned version) {
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (sigaction(SIGILL, &action, 0)) end("no handler", "");
    read_list();
    return version < LAV_CURRENT ? version : LAV_CURRENT;
}

unsigned la_objopen(struct link_map *map, Lmid_t space, uintptr_t *cookie) {
    (void)space, (void)cookie;
    char path[4096];
    if (realpath(map->l_name && *map->l_name ? map->l_name : "/proc/self/exe", path)) patch(path, map->l_addr);
    return 0;
}
