#include "core/isa.h"

#include <atomic>
#include <cstdlib>

#include "core/errors.h"
#include "cpu/table.h"

namespace arraynn {

namespace {

// The compiler's own detection asks the operating system too (XGETBV), not only CPUID. Its list
// must be the list of flags that CMakeLists.txt gives to the instruction set.
std::vector<Isa> detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return {{"baseline", true, &table_baseline}, {"avx2", avx2, &table_avx2}, {"avx512", avx512, &table_avx512}};
#else
  return {{"baseline", true, &table_baseline}};
#endif
}

const Isa& find(const std::string& name) {
  std::string names;
  for (const Isa& isa : compiled_isas()) {
    if (name == isa.name && isa.supported) return isa;
    if (isa.supported) names += (names.empty() ? "" : ", ") + std::string(isa.name);
  }
  for (const Isa& isa : compiled_isas())
    if (name == isa.name)
      value_error("ARRAYNN_ISA: this machine lacks %s, expected one of %s", name.c_str(), names.c_str());
  value_error("ARRAYNN_ISA: got '%s', expected one of %s", name.c_str(), names.c_str());
}

const Isa& initial() {
  const char* forced = std::getenv("ARRAYNN_ISA");
  if (forced && *forced) return find(forced);
  const Isa* best = nullptr;
  for (const Isa& isa : compiled_isas())
    if (isa.supported) best = &isa;
  return *best;
}

std::atomic<const Isa*> chosen{nullptr};

}  // namespace

const std::vector<Isa>& compiled_isas() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

const Isa& current_isa() {
  const Isa* isa = chosen.load(std::memory_order_acquire);
  if (!isa) chosen.store(isa = &initial(), std::memory_order_release);
  return *isa;
}

void set_isa(const std::string& name) { chosen.store(&find(name), std::memory_order_release); }

const CpuTable& cpu() { return *current_isa().table; }

}  // namespace arraynn
