// Functions compiled twice, for any x86 processor and for those with AVX2 and BMI2. Nothing is
// contracted or reordered, so both give the same numbers.
#pragma once

#define NFNETS_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define NFNETS_AVX2 1
#define NFNETS_TARGET __attribute__((target("avx2,bmi2")))
namespace nfnets {
inline bool has_avx2() {
  // BMI2 has the shifts by a variable that bit readers need; it came with AVX2.
  static const bool answer =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  return answer;
}
}  // namespace nfnets
// NAME_fast(...): NAME, an NFNETS_INLINE function, as this processor does it fastest.
#define NFNETS_DISPATCH(NAME, PARAMETERS, ARGUMENTS)                         \
  NFNETS_TARGET void NAME##_avx2 PARAMETERS { NAME ARGUMENTS; }             \
  void NAME##_fast PARAMETERS {                                              \
    if (has_avx2()) return NAME##_avx2 ARGUMENTS;                            \
    NAME ARGUMENTS;                                                          \
  }
#else
#define NFNETS_DISPATCH(NAME, PARAMETERS, ARGUMENTS) \
  void NAME##_fast PARAMETERS { NAME ARGUMENTS; }
#endif
