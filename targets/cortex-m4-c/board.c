/* Vector table, start-up, semihosting. memcpy and memset come with libkiln.a. */
#include "board.h"

extern uint32_t bss_start, bss_end, stack_end, stack_start;
int main(void);
void reset(void);

enum { SYS_WRITE0 = 0x04, SYS_EXIT = 0x18, PAINT = 0x57AC57AC };

static void semihost(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt #0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void say(const char *text, size_t length) {
    char line[65];
    size_t i;
    for (i = 0; i < length && i < 64; i++) line[i] = text[i];
    line[i] = 0;
    semihost(SYS_WRITE0, line);
}

void say_hexadecimal(uint32_t number) {
    char digits[9];
    int i;
    for (i = 0; i < 8; i++) digits[i] = "0123456789abcdef"[number >> (28 - 4 * i) & 15];
    digits[8] = ' ';
    say(digits, sizeof digits);
}

uint32_t stack_used(void) {
    const volatile uint32_t *lowest = &stack_end;
    while (lowest < &stack_start && *lowest == PAINT) lowest++;
    return (uint32_t)((uintptr_t)&stack_start - (uintptr_t)lowest);
}

static void leave(int failed) {
    semihost(SYS_EXIT, (const void *)(uintptr_t)(failed ? 0x20023u : 0x20026u)); /* run-time error, application exit */
    for (;;) {}
}

void reset(void) {
    volatile uint32_t *word;
    uint32_t *here;
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to the FPU */
    __asm__ volatile("dsb\n isb");
    for (word = &bss_start; word < &bss_end; word++) *word = 0;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    for (word = &stack_end; word < here - 8; word++) *word = PAINT; /* below this function's own */
    leave(main());
}

static void fault(void) {
    say("fault\n", 6);
    leave(1);
}

static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors __attribute__((section(".vectors"), used)) = {
    &stack_start,
    {reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault},
};
