// Attention where each set of keys meets few queries, as when text is generated word by word. A panel's lanes would
// mostly be empty, and keys and values packed for nobody: here they are read once, as they lie, and lanes are columns.
#pragma once
#include "cpu/attention/panels.h"

namespace arraynn::cpu::ARRAYNN_ISA {

// Whether forward takes this way, which is a function of the shape and the strides alone.
bool is_few_queries(const AttentionParams& p);
size_t few_queries_scratch(const AttentionParams& p, bool mask);
void attention_few_queries(const AttentionParams& p, const AttentionForward& b, void* scratch);

}  // namespace arraynn::cpu::ARRAYNN_ISA
