/* Counts the words of standard input: one line "count word" each, words in byte order.

   A word is a run of ASCII letters, with single apostrophes inside; letters are lowered. Exit 65 where a
   table is full or the input is larger than INPUT_BYTES_MAX: a wrong count must never look like a right one. */

#include "wasi.h"

#define INPUT_BYTES_MAX (1 << 20)
#define WORDS_MAX (1 << 16)      /* distinct words; the table stays at most half full */
#define SLOTS (WORDS_MAX * 2)

static uint8_t input[INPUT_BYTES_MAX];
static uint8_t output[INPUT_BYTES_MAX + WORDS_MAX * 12];

struct word {
  const uint8_t *text;
  uint32_t size;
  uint32_t count;
};

static struct word words[WORDS_MAX];
static uint32_t words_used;
static uint32_t slots[SLOTS]; /* index into words, plus one; 0 is free */

static int is_letter(uint8_t byte) { return byte >= 'a' && byte <= 'z'; }

static int same(const struct word *word, const uint8_t *text, uint32_t size) {
  if (word->size != size) return 0;
  for (uint32_t i = 0; i < size; i++)
    if (word->text[i] != text[i]) return 0;
  return 1;
}

static void count_word(const uint8_t *text, uint32_t size) {
  uint32_t hash = 2166136261u; /* FNV-1a: the order of the output does not depend on it */
  for (uint32_t i = 0; i < size; i++) hash = (hash ^ text[i]) * 16777619u;
  uint32_t at = hash % SLOTS;
  while (slots[at] != 0) {
    struct word *word = &words[slots[at] - 1];
    if (same(word, text, size)) {
      word->count++;
      return;
    }
    at = (at + 1) % SLOTS;
  }
  if (words_used == WORDS_MAX) wasi_proc_exit(65);
  words[words_used] = (struct word){text, size, 1};
  slots[at] = ++words_used;
}

static int before(const struct word *a, const struct word *b) {
  uint32_t shorter = a->size < b->size ? a->size : b->size;
  for (uint32_t i = 0; i < shorter; i++)
    if (a->text[i] != b->text[i]) return a->text[i] < b->text[i];
  return a->size < b->size;
}

/* Heapsort: no recursion and no bad case, whatever a stranger sends. */
static void sift(uint32_t root, uint32_t end) {
  for (;;) {
    uint32_t child = root * 2 + 1;
    if (child >= end) return;
    if (child + 1 < end && before(&words[child], &words[child + 1])) child++;
    if (!before(&words[root], &words[child])) return;
    struct word swap = words[root];
    words[root] = words[child];
    words[child] = swap;
    root = child;
  }
}

static void sort_words(void) {
  for (uint32_t i = words_used / 2; i-- > 0;) sift(i, words_used);
  for (uint32_t end = words_used; end-- > 1;) {
    struct word swap = words[0];
    words[0] = words[end];
    words[end] = swap;
    sift(0, end);
  }
}

static size_t print_words(void) {
  size_t size = 0;
  for (uint32_t i = 0; i < words_used; i++) {
    uint8_t digits[10];
    int count = 0;
    for (uint32_t rest = words[i].count; rest > 0; rest /= 10) digits[count++] = '0' + rest % 10;
    while (count > 0) output[size++] = digits[--count];
    output[size++] = ' ';
    for (uint32_t j = 0; j < words[i].size; j++) output[size++] = words[i].text[j];
    output[size++] = '\n';
  }
  return size;
}

__attribute__((export_name("_start"))) void start(void) {
  size_t size = read_all(input, INPUT_BYTES_MAX);
  for (size_t i = 0; i < size; i++)
    if (input[i] >= 'A' && input[i] <= 'Z') input[i] += 'a' - 'A';
  for (size_t at = 0; at < size;) {
    if (!is_letter(input[at])) {
      at++;
      continue;
    }
    size_t end = at;
    while (end < size && (is_letter(input[end]) ||
                          (input[end] == '\'' && end + 1 < size && is_letter(input[end + 1]))))
      end++;
    count_word(input + at, (uint32_t)(end - at));
    at = end;
  }
  sort_words();
  write_all(1, output, print_words());
}
