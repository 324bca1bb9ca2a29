#define FASTMAML_ISA baseline
#define FASTMAML_ISA_NAME "baseline"
#define FASTMAML_VECTOR_BYTES 16
#include "generic/table.inc"
