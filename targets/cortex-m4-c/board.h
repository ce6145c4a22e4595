/* What a C program needs on QEMU's mps2-an386 in place of a C library: text out and exit, by semihosting. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

void say(const char *text, size_t length); /* at most 64 bytes of it */
void say_hexadecimal(uint32_t number);     /* eight digits and a space */
uint32_t stack_used(void);                 /* bytes of stack used at most since the start */

#endif
