/* run IMAGE all|named INPUTS OUTPUTS: runs the image once for every set of inputs in the file INPUTS (the bytes of all
 * inputs, one behind the other), with all ops or with those that are named here, and writes the bytes of all outputs.
 * Exit status: 0, a kiln_status, or 100. */
#include "common.h"

static const kiln_ops named = {
    {&kiln_op_gemm, &kiln_op_conv, &kiln_op_depthwise, &kiln_op_pool, &kiln_op_map, &kiln_op_copy, &kiln_op_gather,
     &kiln_op_reduce, &kiln_op_softmax, &kiln_op_norm, &kiln_op_attention, &kiln_op_lstm, &kiln_op_gru,
     &kiln_op_arg_reduce, &kiln_op_top_k, &kiln_op_window}};

static void session_or_exit(const kiln_session *session, int bad) {
    kiln_error error;
    if (!bad) return;
    kiln_or_exit(kiln_session_error(session, &error), &error);
    kiln_or_exit(error.status, &error);
}

int main(int arguments, char **argument) {
    static kiln_image image;
    static kiln_session session;
    kiln_ops all;
    kiln_error error;
    kiln_program needs;
    kiln_tensor tensor;
    FILE *in, *out;
    memory file, arena;
    uint32_t i;
    if (arguments != 5) return 100;
    in = fopen(argument[3], "rb");
    out = fopen(argument[4], "wb");
    if (in == NULL || out == NULL) return 100;

    file = file_read(argument[1]);
    kiln_or_exit(kiln_image_init(&image, file.at, file.length, &error), &error);
    kiln_image_program(&image, 0, &needs);
    arena = memory_new(needs.arena_bytes, needs.arena_alignment);
    kiln_ops_all(&all);
    kiln_or_exit(kiln_session_init(&session, &image, 0, strcmp(argument[2], "all") == 0 ? &all : &named, arena.at,
                                   arena.length, &error),
                 &error);
    for (;;) {
        for (i = 0; i < needs.inputs; i++) {
            void *data;
            kiln_image_input(&image, 0, i, &tensor);
            data = kiln_session_input(&session, i, tensor.dtype, tensor.elements);
            session_or_exit(&session, data == NULL);
            if (fread(data, 1, tensor.bytes, in) != tensor.bytes) goto end;
        }
        session_or_exit(&session, kiln_session_run(&session) != KILN_OK);
        for (i = 0; i < needs.outputs; i++) {
            const void *data;
            kiln_image_output(&image, 0, i, &tensor);
            data = kiln_session_output(&session, i, tensor.dtype, tensor.elements);
            session_or_exit(&session, data == NULL);
            if (fwrite(data, 1, tensor.bytes, out) != tensor.bytes) return 100;
        }
    }
end:
    free(arena.base);
    free(file.base);
    fclose(in);
    return fclose(out) == 0 ? 0 : 100;
}
