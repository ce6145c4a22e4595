/* bad_calls DIGITS TEXT GOLDEN: every wrong call that the header speaks of returns its status and changes nothing.
 * DIGITS is an image of digits-cnn, TEXT one of text-lstm as a stream, GOLDEN one of digits-cnn with golden values. */
#include "common.h"

static int checks = 0;
static kiln_ops ops;

/* Whether all bytes are 0xA5: what objects and arenas are filled with before a call that must not touch them. */
static int untouched(const void *memory_, size_t length) {
    const unsigned char *bytes = (const unsigned char *)memory_;
    while (length-- > 0)
        if (*bytes++ != 0xA5) return 0;
    return 1;
}
#define FILL(object) memset(&(object), 0xA5, sizeof(object))
#define UNTOUCHED(object) untouched(&(object), sizeof(object))

static void bad_image(kiln_status want, const void *bytes, size_t length) {
    kiln_image image;
    kiln_error error;
    FILL(image);
    FILL(error);
    CHECK(kiln_image_init(&image, bytes, length, &error) == want);
    CHECK(UNTOUCHED(image));
    CHECK(error.status == want && error.what.length > 0);
    CHECK(kiln_image_init(&image, bytes, length, NULL) == want);
}

static void images(const char *path) {
    memory file = file_read(path), room = memory_new(file.length + 64, 64);
    kiln_image image, copy;
    size_t i;
    memset(&image, 0, sizeof image);
    CHECK(kiln_image_init(NULL, file.at, file.length, NULL) == KILN_NULL);
    CHECK(kiln_image_init((kiln_image *)((char *)&copy + 1), file.at, file.length, NULL) == KILN_MISALIGNED);
    bad_image(KILN_NULL, NULL, file.length);
    bad_image(KILN_BAD_IMAGE, file.at, 0);
    bad_image(KILN_BAD_IMAGE, file.at, file.length - 1);
    bad_image(KILN_BAD_IMAGE, file.at, SIZE_MAX);
    for (i = 0; i < file.length; i += file.length / 50) bad_image(KILN_BAD_IMAGE, file.at, i);
    for (i = 1; i < 64; i++) { /* as aligned as malloc at best */
        memcpy(room.at + i, file.at, file.length);
        bad_image(KILN_MISALIGNED, room.at + i, file.length);
    }
    memcpy(room.at, file.at, file.length);
    room.at[8]++; /* the version */
    bad_image(KILN_BAD_VERSION, room.at, file.length);
    room.at[8]--;
    for (i = 12; i < file.length; i += 1 + file.length / 300) { /* damage, anywhere */
        room.at[i] ^= 0x10;
        bad_image(KILN_BAD_IMAGE, room.at, file.length);
        room.at[i] ^= 0x10;
    }
    CHECK(kiln_image_init(&image, room.at, file.length, NULL) == KILN_OK);
    free(room.base);
    free(file.base);
}

static void questions(const kiln_image *image) {
    static kiln_image zeroed;
    kiln_image copy = *image;
    const kiln_image *bad[4];
    kiln_status want[4] = {KILN_NULL, KILN_NOT_INITIALIZED, KILN_NOT_INITIALIZED, KILN_MISALIGNED};
    kiln_program program;
    kiln_tensor tensor;
    kiln_text text;
    int i;
    bad[0] = NULL;
    bad[1] = &zeroed;
    bad[2] = &copy;
    bad[3] = (const kiln_image *)((const char *)image + 1);
    FILL(program);
    FILL(tensor);
    FILL(text);
    for (i = 0; i < 4; i++) {
        CHECK(kiln_image_program(bad[i], 0, &program) == want[i]);
        CHECK(kiln_image_input(bad[i], 0, 0, &tensor) == want[i]);
        CHECK(kiln_image_output(bad[i], 0, 0, &tensor) == want[i]);
        CHECK(kiln_image_metadata(bad[i], "kiln.labels", &text) == want[i]);
    }
    CHECK(kiln_image_program(image, 1, &program) == KILN_NOT_FOUND);
    CHECK(kiln_image_program(image, UINT32_MAX, &program) == KILN_NOT_FOUND);
    CHECK(kiln_image_input(image, 1, 0, &tensor) == KILN_NOT_FOUND);
    CHECK(kiln_image_input(image, 0, 1, &tensor) == KILN_NOT_FOUND);
    CHECK(kiln_image_output(image, 0, UINT32_MAX, &tensor) == KILN_NOT_FOUND);
    CHECK(kiln_image_metadata(image, "", &text) == KILN_NOT_FOUND);
    CHECK(kiln_image_metadata(image, "kiln.label", &text) == KILN_NOT_FOUND);
    CHECK(kiln_image_metadata(image, "kiln.labels.", &text) == KILN_NOT_FOUND);
    CHECK(kiln_image_metadata(image, NULL, &text) == KILN_NULL);
    CHECK(UNTOUCHED(program) && UNTOUCHED(tensor) && UNTOUCHED(text));
    CHECK(kiln_image_program(image, 0, NULL) == KILN_NULL);
    CHECK(kiln_image_input(image, 0, 0, NULL) == KILN_NULL);
    CHECK(kiln_image_output(image, 0, 0, NULL) == KILN_NULL);
    CHECK(kiln_image_metadata(image, "kiln.labels", NULL) == KILN_NULL);
    CHECK(kiln_ops_all(NULL) == KILN_NULL);

    CHECK(kiln_image_program(image, 0, &program) == KILN_OK);
    CHECK(program.inputs == 1 && program.outputs == 1 && program.arena_alignment == 64 && program.arena_bytes > 0);
    CHECK(kiln_image_input(image, 0, 0, &tensor) == KILN_OK);
    CHECK(tensor.name.length == 5 && memcmp(tensor.name.text, "image", 5) == 0);
    CHECK(tensor.dtype == KILN_F32 && tensor.rank == 4 && tensor.elements == 784 && tensor.bytes == 3136);
    CHECK(tensor.dims[0] == 1 && tensor.dims[1] == 1 && tensor.dims[2] == 28 && tensor.dims[3] == 28);
    CHECK(kiln_image_output(image, 0, 0, &tensor) == KILN_OK);
    CHECK(tensor.name.length == 6 && memcmp(tensor.name.text, "logits", 6) == 0 && tensor.elements == 10);
    CHECK(kiln_image_metadata(image, "kiln.labels", &text) == KILN_OK && text.length > 0);
}

static void bad_session(kiln_status want, const kiln_image *image, uint32_t program, const kiln_ops *list, memory arena,
                        size_t offset, size_t length) {
    kiln_session session;
    kiln_error error;
    FILL(session);
    FILL(error);
    memset(arena.at, 0xA5, arena.length);
    CHECK(kiln_session_init(&session, image, program, list, arena.at + offset, length, &error) == want);
    CHECK(error.status == want && error.what.length > 0);
    CHECK(kiln_session_init(&session, image, program, list, arena.at + offset, length, NULL) == want);
    CHECK(UNTOUCHED(session) && untouched(arena.at, arena.length));
}

static void sessions(const kiln_image *image) {
    static kiln_image zeroed;
    static kiln_ops none;
    kiln_program needs;
    kiln_session session;
    kiln_error error;
    memory arena;
    size_t n, i;
    kiln_image_program(image, 0, &needs);
    n = needs.arena_bytes;
    arena = memory_new(n + 64, needs.arena_alignment);
    CHECK(kiln_session_init(NULL, image, 0, &ops, arena.at, n, NULL) == KILN_NULL);
    CHECK(kiln_session_init((kiln_session *)((char *)&session + 1), image, 0, &ops, arena.at, n, NULL) == KILN_MISALIGNED);
    FILL(session);
    CHECK(kiln_session_init(&session, image, 0, &ops, NULL, n, &error) == KILN_NULL && UNTOUCHED(session));
    bad_session(KILN_NULL, NULL, 0, &ops, arena, 0, n);
    bad_session(KILN_NULL, image, 0, NULL, arena, 0, n);
    bad_session(KILN_NOT_INITIALIZED, &zeroed, 0, &ops, arena, 0, n);
    bad_session(KILN_NOT_FOUND, image, 1, &ops, arena, 0, n);
    bad_session(KILN_MISSING_OP, image, 0, &none, arena, 0, n);
    bad_session(KILN_ARENA_TOO_SMALL, image, 0, &ops, arena, 0, 0);
    bad_session(KILN_ARENA_TOO_SMALL, image, 0, &ops, arena, 0, n - 1);
    for (i = 1; i < 64; i++) bad_session(KILN_MISALIGNED, image, 0, &ops, arena, i, n);
    CHECK(kiln_session_init(&session, image, 0, &none, arena.at, n, &error) == KILN_MISSING_OP);
    CHECK(error.place == KILN_AT_OP && error.number == 0);
    CHECK(kiln_session_init(&session, image, 0, &ops, arena.at, n, NULL) == KILN_OK);
    free(arena.base);
}

static kiln_error last(const kiln_session *session) {
    kiln_error error;
    CHECK(kiln_session_error(session, &error) == KILN_OK);
    return error;
}

static void calls(const kiln_image *image) {
    static kiln_session session, zeroed;
    kiln_session copy;
    kiln_session *bad[4];
    kiln_status want[4] = {KILN_NULL, KILN_NOT_INITIALIZED, KILN_NOT_INITIALIZED, KILN_MISALIGNED};
    kiln_program needs;
    kiln_error error;
    memory arena, before;
    float *x, answer[10];
    const float *y;
    int32_t done;
    int i, round;
    kiln_image_program(image, 0, &needs);
    arena = memory_new(needs.arena_bytes, needs.arena_alignment);
    before = memory_new(needs.arena_bytes, 1);
    CHECK(kiln_session_init(&session, image, 0, &ops, arena.at, arena.length, NULL) == KILN_OK);
    CHECK(last(&session).status == KILN_OK);
    copy = session;
    bad[0] = NULL;
    bad[1] = &zeroed;
    bad[2] = &copy;
    bad[3] = (kiln_session *)((char *)&session + 1);
    memcpy(before.at, arena.at, arena.length);
    for (i = 0; i < 4; i++) {
        FILL(error);
        CHECK(kiln_session_input(bad[i], 0, KILN_F32, 784) == NULL);
        CHECK(kiln_session_output(bad[i], 0, KILN_F32, 10) == NULL);
        CHECK(kiln_session_run(bad[i]) == want[i]);
        done = 7;
        CHECK(kiln_session_run_slice(bad[i], 1, &done) == want[i] && done == 7);
        CHECK(kiln_session_reset(bad[i]) == want[i]);
        CHECK(kiln_session_self_test(bad[i]) == want[i]);
        CHECK(kiln_session_error(bad[i], &error) == want[i] && UNTOUCHED(error));
    }
    CHECK(kiln_session_error(&session, NULL) == KILN_NULL);

    CHECK(kiln_session_run(&session) == KILN_INPUT_MISSING); /* run before input */
    CHECK(last(&session).status == KILN_INPUT_MISSING && last(&session).place == KILN_AT_TENSOR);
    CHECK(kiln_session_output(&session, 0, KILN_F32, 10) == NULL); /* output before run */
    CHECK(last(&session).status == KILN_INPUT_MISSING);
    CHECK(kiln_session_input(&session, 1, KILN_F32, 784) == NULL && last(&session).status == KILN_NOT_FOUND);
    CHECK(kiln_session_input(&session, UINT32_MAX, KILN_F32, 784) == NULL && last(&session).status == KILN_NOT_FOUND);
    CHECK(kiln_session_input(&session, 0, KILN_F64, 784) == NULL && last(&session).status == KILN_WRONG_DTYPE);
    CHECK(kiln_session_input(&session, 0, (kiln_dtype)12345, 784) == NULL && last(&session).status == KILN_WRONG_DTYPE);
    CHECK(kiln_session_input(&session, 0, KILN_F32, 783) == NULL && last(&session).status == KILN_WRONG_SIZE);
    CHECK(kiln_session_input(&session, 0, KILN_F32, 0) == NULL && last(&session).status == KILN_WRONG_SIZE);
    CHECK(kiln_session_run(&session) == KILN_INPUT_MISSING); /* none of these counts as written */
    CHECK(memcmp(before.at, arena.at, arena.length) == 0);

    for (round = 0; round < 2; round++) { /* and the session works as if nothing had been */
        x = (float *)kiln_session_input(&session, 0, KILN_F32, 784);
        CHECK(x != NULL);
        for (i = 0; i < 784; i++) x[i] = (float)(i * 37 % 101) / 50 - 1;
        CHECK(kiln_session_output(&session, 0, KILN_F32, 10) == NULL && last(&session).status == KILN_INPUT_MISSING);
        CHECK(kiln_session_run(&session) == KILN_OK);
        y = (const float *)kiln_session_output(&session, 0, KILN_F32, 10);
        CHECK(y != NULL);
        if (round == 0) memcpy(answer, y, sizeof answer);
        CHECK(memcmp(answer, y, sizeof answer) == 0);
        CHECK(kiln_session_output(&session, 1, KILN_F32, 10) == NULL && last(&session).status == KILN_NOT_FOUND);
        CHECK(kiln_session_output(&session, 0, KILN_I32, 10) == NULL && last(&session).status == KILN_WRONG_DTYPE);
        CHECK(kiln_session_output(&session, 0, KILN_F32, 11) == NULL && last(&session).status == KILN_WRONG_SIZE);
        CHECK(kiln_session_run(&session) == KILN_INPUT_MISSING); /* a run consumes its inputs */
        y = (const float *)kiln_session_output(&session, 0, KILN_F32, 10);
        CHECK(y != NULL && memcmp(answer, y, sizeof answer) == 0); /* and outputs stay */
    }
    x = (float *)kiln_session_input(&session, 0, KILN_F32, 784);
    CHECK(x != NULL && kiln_session_reset(&session) == KILN_OK);
    CHECK(kiln_session_run(&session) == KILN_INPUT_MISSING);
    free(arena.base);
    free(before.base);
}

/* However a run is cut, the same bits come out, and outputs are there when it is done. */
static void slices(const kiln_image *image) {
    static const uint32_t budgets[] = {UINT32_MAX, 1, 0, 2, 3, 7, 64};
    static kiln_session session;
    kiln_program needs;
    memory arena;
    float *x, answer[10];
    const float *y;
    int32_t done;
    int i, calls;
    size_t k;
    kiln_image_program(image, 0, &needs);
    arena = memory_new(needs.arena_bytes, needs.arena_alignment);
    CHECK(kiln_session_init(&session, image, 0, &ops, arena.at, arena.length, NULL) == KILN_OK);
    done = 7;
    CHECK(kiln_session_run_slice(&session, 1, &done) == KILN_INPUT_MISSING && done == 7);
    for (k = 0; k < sizeof budgets / sizeof *budgets; k++) {
        x = (float *)kiln_session_input(&session, 0, KILN_F32, 784);
        CHECK(x != NULL);
        for (i = 0; i < 784; i++) x[i] = (float)(i * 37 % 101) / 50 - 1;
        CHECK(kiln_session_run_slice(&session, 1, NULL) == KILN_NULL);
        CHECK(kiln_session_run_slice(&session, 1, (int32_t *)((char *)&done + 1)) == KILN_MISALIGNED);
        for (calls = 1, done = 7;; calls++) {
            CHECK(kiln_session_run_slice(&session, budgets[k], &done) == KILN_OK);
            if (done != 0) break;
            CHECK(kiln_session_output(&session, 0, KILN_F32, 10) == NULL && last(&session).status == KILN_INPUT_MISSING);
        }
        CHECK(done == 1 && (k == 0 ? calls == 1 : budgets[k] > 3 || calls > 5));
        y = (const float *)kiln_session_output(&session, 0, KILN_F32, 10);
        CHECK(y != NULL);
        if (k == 0) memcpy(answer, y, sizeof answer);
        CHECK(memcmp(answer, y, sizeof answer) == 0);
        done = 7;
        CHECK(kiln_session_run_slice(&session, 1, &done) == KILN_INPUT_MISSING && done == 7);
    }
    free(arena.base);
}

/* An index past the vocabulary is found while running; the session goes on with good inputs. */
static void values(const char *path) {
    static kiln_image image;
    static kiln_session session;
    memory file = file_read(path), arena;
    kiln_program needs;
    int64_t *ids;
    CHECK(kiln_image_init(&image, file.at, file.length, NULL) == KILN_OK);
    CHECK(kiln_image_program(&image, 0, &needs) == KILN_OK && needs.state_bytes > 0);
    arena = memory_new(needs.arena_bytes, needs.arena_alignment);
    CHECK(kiln_session_init(&session, &image, 0, &ops, arena.at, arena.length, NULL) == KILN_OK);
    ids = (int64_t *)kiln_session_input(&session, 0, KILN_I64, 1);
    CHECK(ids != NULL);
    *ids = INT64_MAX;
    CHECK(kiln_session_run(&session) == KILN_BAD_VALUE);
    CHECK(last(&session).status == KILN_BAD_VALUE && last(&session).place == KILN_AT_OP);
    CHECK(kiln_session_output(&session, 0, KILN_F32, 2) == NULL);
    CHECK(kiln_session_run(&session) == KILN_INPUT_MISSING);
    ids = (int64_t *)kiln_session_input(&session, 0, KILN_I64, 1);
    CHECK(ids != NULL);
    *ids = 7;
    CHECK(kiln_session_run(&session) == KILN_OK);
    free(arena.base);
    free(file.base);
}

/* The self-test passes, more than once, and leaves the session as after a reset; without golden values it says so. */
static void self_test(const char *path, const kiln_image *plain) {
    static kiln_image image;
    static kiln_session session;
    memory file = file_read(path), arena;
    kiln_program needs;
    CHECK(kiln_image_init(&image, file.at, file.length, NULL) == KILN_OK);
    CHECK(kiln_image_program(&image, 0, &needs) == KILN_OK);
    arena = memory_new(needs.arena_bytes, needs.arena_alignment);
    CHECK(kiln_session_init(&session, &image, 0, &ops, arena.at, arena.length, NULL) == KILN_OK);
    CHECK(kiln_session_self_test(&session) == KILN_OK);
    CHECK(kiln_session_self_test(&session) == KILN_OK);
    CHECK(kiln_session_run(&session) == KILN_INPUT_MISSING);
    CHECK(kiln_session_output(&session, 0, KILN_F32, 10) == NULL);
    CHECK(kiln_session_init(&session, plain, 0, &ops, arena.at, arena.length, NULL) == KILN_OK);
    CHECK(kiln_session_self_test(&session) == KILN_NOT_FOUND && last(&session).status == KILN_NOT_FOUND);
    free(arena.base);
    free(file.base);
}

static void texts(void) {
    static const kiln_status all[] = {
        KILN_OK,        KILN_BAD_IMAGE,  KILN_BAD_VERSION,   KILN_MISALIGNED, KILN_ARENA_TOO_SMALL,
        KILN_MISSING_OP, KILN_NOT_FOUND, KILN_WRONG_DTYPE,   KILN_WRONG_SIZE, KILN_INPUT_MISSING,
        KILN_BAD_VALUE, KILN_NO_ISA,     KILN_EXTERN_OP,     KILN_SELF_TEST_FAILED, KILN_NULL, KILN_NOT_INITIALIZED,
    };
    const char *no_status = kiln_status_text((kiln_status)-1);
    size_t i, j;
    CHECK(strcmp(no_status, kiln_status_text((kiln_status)63)) == 0);
    for (i = 0; i < sizeof all / sizeof *all; i++) {
        CHECK(strlen(kiln_status_text(all[i])) > 5 && strcmp(kiln_status_text(all[i]), no_status) != 0);
        for (j = 0; j < i; j++) CHECK(strcmp(kiln_status_text(all[i]), kiln_status_text(all[j])) != 0);
    }
}

int main(int arguments, char **argument) {
    static kiln_image image;
    memory file;
    if (arguments != 4) return 100;
    file = file_read(argument[1]);
    CHECK(kiln_ops_all(&ops) == KILN_OK);
    CHECK(kiln_image_init(&image, file.at, file.length, NULL) == KILN_OK);
    images(argument[1]);
    questions(&image);
    sessions(&image);
    calls(&image);
    slices(&image);
    values(argument[2]);
    self_test(argument[3], &image);
    texts();
    free(file.base);
    printf("bad_calls: %d checks passed\n", checks);
    return 0;
}
