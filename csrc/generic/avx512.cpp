#define FASTMAML_ISA avx512
#define FASTMAML_ISA_NAME "avx512"
#define FASTMAML_VECTOR_BYTES 64
#include "generic/table.inc"
