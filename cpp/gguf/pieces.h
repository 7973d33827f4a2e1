// Files that were cut into pieces byte by byte, for download: model.gguf.part1, model.gguf.002,
// model.gguf-split-a.  Unlike the parts of a model in several files, none of them is a GGUF file.
#pragma once

#include <string>

namespace hrun::gguf {

// Says what to do with a file that is not whole and whose name is that of a piece: names the pieces
// beside it and how to join them.  Returns "" for any other name.
std::string describe_piece(const std::string& path);

}  // namespace hrun::gguf
