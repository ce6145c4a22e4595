/* Preloaded into a runtime, it hides AVX-512 and AMX from it, so that a CPU with them can stand for one with AVX2.

   The kernel is asked to trap the CPUID instruction (arch_prctl, Linux, CPUs with "cpuid_fault"); the handler executes it and
   clears the bits. XGETBV still tells that the system saves the wide registers: no runtime goes by that alone. The C library has
   chosen its copies before, which is of no weight here. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { A, B, C, D };

/* Bits of leaf 7: AVX-512 in its parts; in D also AMX, and in the first subleaf bf16, AMX's fp16 and AVX10. */
static const unsigned leaf7[2][4] = {{0, 0xDC230000u, 0x00005842u, 0x03C0010Cu}, {0x00200020u, 0, 0, 0x00080000u}};

static void cpuid(unsigned leaf, unsigned subleaf, unsigned r[4]) {
    __asm__ volatile("cpuid" : "=a"(r[A]), "=b"(r[B]), "=c"(r[C]), "=d"(r[D]) : "a"(leaf), "c"(subleaf));
}

static long allow(int whether) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, whether); }

static void trapped(int number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    if (code[0] != 0x0F || code[1] != 0xA2) { /* a fault of the program's own: it happens again, and ends it */
        signal(number, SIG_DFL);
        return;
    }
    unsigned leaf = (unsigned)registers[REG_RAX], subleaf = (unsigned)registers[REG_RCX], r[4];
    allow(1); /* for this thread, as the trap is */
    cpuid(leaf, subleaf, r);
    allow(0);
    if (leaf == 7 && subleaf < 2)
        for (int i = 0; i < 4; i++) r[i] &= ~leaf7[subleaf][i];
    registers[REG_RAX] = r[A], registers[REG_RBX] = r[B], registers[REG_RCX] = r[C], registers[REG_RDX] = r[D];
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
    unsigned r[4];
    cpuid(0, 0, r);
    if (r[A] < 7) return;
    cpuid(7, 0, r);
    if (!(r[B] >> 16 & 1)) return; /* nothing to hide */
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER};
    static const char why[] = "error: AVX-512 can't be hidden: this system does not trap CPUID\n";
    if (sigaction(SIGSEGV, &action, 0) || allow(0)) {
        if (write(2, why, sizeof why - 1) < 0) _exit(2);
        _exit(1);
    }
}
