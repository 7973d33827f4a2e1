// The logits after every token of a text, by llama.cpp: MODEL OUT ID...  float32 [tokens, vocabulary] into OUT.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

int main(int argc, char** argv) {
  if (argc < 4) return 1;
  llama_backend_init();
  llama_model* const model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) return 2;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 256;
  params.n_threads = params.n_threads_batch = 1;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context* const context = llama_init_from_model(model, params);
  if (!context) return 3;
  const int n = argc - 3;
  llama_batch batch = llama_batch_init(n, 0, 1);
  batch.n_tokens = n;
  for (int i = 0; i < n; ++i) {
    batch.token[i] = std::atoi(argv[i + 3]);
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  if (llama_decode(context, batch) != 0) return 4;
  std::FILE* const out = std::fopen(argv[2], "wb");
  if (!out) return 5;
  const auto width = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  for (int i = 0; i < n; ++i)
    if (std::fwrite(llama_get_logits_ith(context, i), sizeof(float), width, out) != width) return 6;
  return std::fclose(out) == 0 ? 0 : 7;
}
