// For helpers of function bodies that are compiled once per instruction set: inlined, they take that of their caller.
#pragma once

#define ADAPTINF_ALWAYS inline __attribute__((always_inline))
