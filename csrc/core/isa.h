// Which instruction sets were compiled in, which the machine has, and which one runs.
#pragma once
#include <string>
#include <vector>

namespace arraynn {

struct CpuTable;  // cpu/table.h

struct Isa {
  const char* name;
  bool supported;  // by this machine and its operating system
  const CpuTable* table;
};

// Compiled instruction sets, the plainest first.
const std::vector<Isa>& compiled_isas();

const Isa& current_isa();
// Throws ValueError for a name that is not compiled in or that the machine lacks.
void set_isa(const std::string& name);

// The kernels of the current instruction set.
const CpuTable& cpu();

}  // namespace arraynn
