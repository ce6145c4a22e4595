/* stream TEXT: a C++ program feeds text-lstm a word at a time, from two sessions of one image in two threads, and after a
 * reset: always the same answers. */
#include "common.h"

#include <cstdio>
#include <thread>
#include <vector>

static std::vector<float> answers(const kiln_image &image, int resets) {
    int checks = 0;
    kiln_program needs;
    CHECK(kiln_image_program(&image, 0, &needs) == KILN_OK);
    memory arena = memory_new(needs.arena_bytes, needs.arena_alignment);
    kiln_ops ops;
    CHECK(kiln_ops_all(&ops) == KILN_OK);
    kiln_session session = {};
    CHECK(kiln_session_init(&session, &image, 0, &ops, arena.at, arena.length, nullptr) == KILN_OK);
    std::vector<float> all;
    for (int i = 0; i <= resets; i++) {
        all.clear();
        CHECK(kiln_session_reset(&session) == KILN_OK);
        for (int64_t word = 1; word <= 20; word++) {
            int64_t *ids = static_cast<int64_t *>(kiln_session_input(&session, 0, KILN_I64, 1));
            CHECK(ids != nullptr);
            *ids = word * 3;
            CHECK(kiln_session_run(&session) == KILN_OK);
            const float *scores = static_cast<const float *>(kiln_session_output(&session, 0, KILN_F32, 2));
            CHECK(scores != nullptr);
            all.insert(all.end(), scores, scores + 2);
        }
    }
    free(arena.base);
    return all;
}

int main(int arguments, char **argument) {
    if (arguments != 2) return 100;
    int checks = 0;
    memory file = file_read(argument[1]);
    static kiln_image image;
    CHECK(kiln_image_init(&image, file.at, file.length, nullptr) == KILN_OK);
    std::vector<float> here = answers(image, 0), one, two;
    std::thread first([&] { one = answers(image, 5); }), second([&] { two = answers(image, 3); });
    first.join();
    second.join();
    CHECK(here.size() == 40 && here == one && here == two);
    CHECK(here[0] != here[2]); /* the state counts */
    free(file.base);
    std::printf("stream: %d checks passed\n", checks);
}
