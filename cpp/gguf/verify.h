// The check that reads all of a tensor: is every weight a finite number?
#pragma once

#include "gguf/file.h"

namespace hrun::gguf {

// Throws ModelFileError naming the tensor, row, block and value.
void verify(const File& file, const TensorInfo& tensor);

}  // namespace hrun::gguf
