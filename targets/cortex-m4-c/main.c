/* Recognises a keyword on a Cortex-M4F over the C ABI: MLPerf Tiny's network kws, on the reference's input.
 *
 * Says `output BITS...` (each float in hexadecimal), `stack BYTES` (hexadecimal), or `error TEXT`. */
#include "board.h"
#include "kws.h" /* by kiln compile --emit c */

extern const float input[490]; /* 49 steps of time by 10 coefficients */

static kiln_image image;
static kiln_session session;
static uint64_t arena[(KWS_ARENA_BYTES + 7) / 8]; /* aligned to 8, as the image was compiled for */

/* Between these targets/count counts instructions; their bodies differ so that the linker keeps both. */
__attribute__((noinline)) void region_begin(void) { __asm__ volatile("nop"); }
__attribute__((noinline)) void region_end(void) { __asm__ volatile("nop\n nop"); }

static int failed(const kiln_error *error) {
    say("error ", 6);
    say(error->what.text, error->what.length);
    say("\n", 1);
    return 1;
}

int main(void) {
    kiln_error error;
    kiln_status status;
    float *x;
    const float *y;
    size_t i;
    if (kiln_image_init(&image, kws_image, KWS_BYTES, &error) != KILN_OK) return failed(&error);
    if (kiln_session_init(&session, &image, 0, &kws_ops, arena, sizeof arena, &error) != KILN_OK) return failed(&error);
    x = kiln_session_input(&session, 0, KILN_F32, 490);
    if (x == NULL) return kiln_session_error(&session, &error), failed(&error);
    for (i = 0; i < 490; i++) x[i] = input[i];
    region_begin();
    status = kiln_session_run(&session);
    region_end();
    y = kiln_session_output(&session, 0, KILN_F32, 12);
    if (status != KILN_OK || y == NULL) return kiln_session_error(&session, &error), failed(&error);
    say("output ", 7);
    for (i = 0; i < 12; i++) {
        union { float number; uint32_t bits; } as;
        as.number = y[i];
        say_hexadecimal(as.bits);
    }
    say("\nstack ", 7);
    say_hexadecimal(stack_used());
    say("\n", 1);
    return 0;
}
