// The states of a text's tokens after the last norm, by llama.cpp: MODEL ID...  A token a line.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

int main(int argc, char** argv) {
  if (argc < 3) return 1;
  llama_backend_init();
  llama_model* const model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) return 2;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 512;
  params.embeddings = true;
  params.pooling_type = LLAMA_POOLING_TYPE_NONE;
  params.n_threads = params.n_threads_batch = 1;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context* const context = llama_init_from_model(model, params);
  if (!context) return 3;
  const int n = argc - 2;
  llama_batch batch = llama_batch_init(n, 0, 1);
  batch.n_tokens = n;
  for (int i = 0; i < n; ++i) {
    batch.token[i] = std::atoi(argv[i + 2]);
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  if (llama_encode(context, batch) != 0) return 4;
  const int width = llama_model_n_embd(model);
  for (int i = 0; i < n; ++i) {
    const float* const states = llama_get_embeddings_ith(context, i);
    for (int k = 0; k < width; ++k) std::printf("%.9g ", static_cast<double>(states[k]));
    std::printf("\n");
  }
}
