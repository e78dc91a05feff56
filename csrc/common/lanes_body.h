// Vectors of kLanes floats by value. Included in a namespace that is compiled for an instruction set (#pragma GCC target),
// because passing such vectors is part of it.

using Float = Vector<kLanes>::Float;
using Int = Vector<kLanes>::Int;
using Lanes = std::make_integer_sequence<int, kLanes>;

ADAPTINF_ALWAYS Float load(const float* from) {
  Float values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

ADAPTINF_ALWAYS void store(float* to, Float values) { std::memcpy(to, &values, sizeof values); }

// Every lane with the one whose number differs in the bit `Bit`.
template <int Bit, int... I>
ADAPTINF_ALWAYS Float partners(Float values, std::integer_sequence<int, I...>) {
  return __builtin_shuffle(values, Int{(I ^ Bit)...});
}

template <int Bit = kLanes / 2>
ADAPTINF_ALWAYS float sum_of_lanes(Float values) {
  if constexpr (Bit > 0)
    return sum_of_lanes<Bit / 2>(values + partners<Bit>(values, Lanes{}));
  else
    return values[0];
}

// NaN may be passed over.
template <int Bit = kLanes / 2>
ADAPTINF_ALWAYS float largest_of_lanes(Float values) {
  if constexpr (Bit > 0) {
    const Float others = partners<Bit>(values, Lanes{});
    return largest_of_lanes<Bit / 2>(values > others ? values : others);
  } else {
    return values[0];
  }
}

// Rows I and I + Bit of a block exchange the halves of each stretch of 2 Bit lanes that lie across the diagonal.
template <int Bit, int Row, int... I>
ADAPTINF_ALWAYS void exchange(Float* block, std::integer_sequence<int, I...>) {
  if constexpr ((Row & Bit) == 0) {
    const Float a = block[Row], b = block[Row + Bit];
    block[Row] = __builtin_shuffle(a, b, Int{((I & Bit) ? kLanes + I - Bit : I)...});
    block[Row + Bit] = __builtin_shuffle(a, b, Int{((I & Bit) ? kLanes + I : I + Bit)...});
  }
}

template <int Bit, int... Rows>
ADAPTINF_ALWAYS void transpose(Float* block, std::integer_sequence<int, Rows...> rows) {
  (exchange<Bit, Rows>(block, rows), ...);
  if constexpr (Bit > 1) transpose<Bit / 2>(block, rows);
}

// kLanes rows of a matrix of kLanes columns become its columns.
ADAPTINF_ALWAYS void transpose(Float* block) { transpose<kLanes / 2>(block, Lanes{}); }
