#define FASTMAML_ISA avx2
#define FASTMAML_ISA_NAME "avx2"
#define FASTMAML_VECTOR_BYTES 32
#include "generic/table.inc"
