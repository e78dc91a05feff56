// Included once per instruction set, in a namespace of that set; see kernels_vector.h.

// Sketching

// `count` columns of some rows, whose signs begin at that bit, to as many rows of the accumulator.
template <bool Whole>
ADAPTINF_ALWAYS void add_rows(const float* values, int64_t step, const uint32_t* signs, int64_t bit, int64_t count,
                              int64_t rows, float* to, int64_t to_step) {
  for (int64_t row = 0; row < rows; ++row, to += to_step) {
    const float* from = values + row * step;
    if (Whole) {
      store(to, load(to) + flip(load(from), signs[row] >> bit));
    } else {
      store_some(to, load_some(to, count) + flip(load_some(from, count), signs[row] >> bit), count);
    }
  }
}

// `count` columns of a panel from `offset` on, which begin at `local` of that tile, for every run of rows.
template <bool Whole>
ADAPTINF_ALWAYS void add_piece(const SjltPanel& panel, int64_t slice, int64_t offset, int64_t count, int64_t tile,
                               int64_t local, float* base) {
  const int64_t width = panel.tile_vector + kVectorPad;
  const uint32_t* signs = panel.signs + slice * panel.sign_slice + offset / kPanel * panel.rows;
  const Turn* turns = panel.turns + slice * panel.n_runs * panel.n_tiles + tile - panel.first_tile;
  for (int64_t index = 0; index < panel.n_runs; ++index) {
    const Run& run = panel.runs[index];
    const Turn turn = turns[index * panel.n_tiles];
    int64_t column = local + turn.vector, row = run.local + turn.scalar;
    column -= column >= panel.tile_vector ? panel.tile_vector : 0;
    row -= row >= panel.tile_scalar ? panel.tile_scalar : 0;
    const int64_t before = std::min(run.last - run.first, panel.tile_scalar - row);  // those after it begin at row 0
    const int64_t after = run.last - run.first - before;
    const float* values = panel.values + run.first * panel.step + offset;
    float* to = base + row * width + column;
    add_rows<Whole>(values, panel.step, signs + run.first, offset % kPanel, count, before, to, width);
    if (after > 0)
      add_rows<Whole>(values + before * panel.step, panel.step, signs + run.first + before, offset % kPanel, count, after,
                      base + column, width);
  }
}

void sjlt(const SjltPanel& given, float* accumulators) {
  const SjltPanel panel = given;  // of its own, so that the stores cannot change it
  for (int64_t slice = 0; slice < panel.slices; ++slice) {
    float* base = accumulators + slice * panel.tile_scalar * (panel.tile_vector + kVectorPad);
    int64_t tile = panel.column / panel.tile_vector, local = panel.column % panel.tile_vector;
    for (int64_t offset = 0; offset < panel.columns;) {
      const int64_t in_panel = std::min(kPanel - offset % kPanel, panel.columns - offset);
      const int64_t count = std::min(std::min(kLanes, in_panel), panel.tile_vector - local);
      if (count == kLanes) {
        add_piece<true>(panel, slice, offset, count, tile, local, base);
      } else {
        add_piece<false>(panel, slice, offset, count, tile, local, base);
      }
      offset += count;
      local += count;
      if (local == panel.tile_vector) local = 0, ++tile;
    }
  }
}

// Philox on kCounters counters side by side, in as many vectors as that takes: enough to hide the latency of a round.
constexpr int64_t kCounters = 32;
constexpr int64_t kSets = kCounters / kLanes;

struct Counters {
  Words word[4][kSets];
  uint32_t* lanes(int64_t index) { return reinterpret_cast<uint32_t*>(word[index]); }
};

struct Product {
  Words high, low;
};

ADAPTINF_ALWAYS Product wide_product(Words a, uint32_t b) {
#if ADAPTINF_VECTOR_BYTES == 64
  const __m512i factor = _mm512_set1_epi64(b), bits = reinterpret_cast<__m512i>(a);
  const __m512i even = _mm512_mul_epu32(bits, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(bits, 32), factor);
  return {reinterpret_cast<Words>(_mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd)),
          reinterpret_cast<Words>(_mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32)))};
#elif ADAPTINF_VECTOR_BYTES == 32
  const __m256i factor = _mm256_set1_epi64x(b), bits = reinterpret_cast<__m256i>(a);
  const __m256i even = _mm256_mul_epu32(bits, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(bits, 32), factor);
  return {reinterpret_cast<Words>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)),
          reinterpret_cast<Words>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa))};
#else
  Product product;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const uint64_t whole = static_cast<uint64_t>(a[lane]) * b;
    product.high[lane] = static_cast<uint32_t>(whole >> 32);
    product.low[lane] = static_cast<uint32_t>(whole);
  }
  return product;
#endif
}

ADAPTINF_ALWAYS void philox(Counters& counters, PhiloxKey key) {
  auto& c = counters.word;
  for (int round = 0; round < 10; ++round) {
    for (int64_t set = 0; set < kSets; ++set) {
      const Product first = wide_product(c[0][set], 0xD2511F53u), second = wide_product(c[2][set], 0xCD9E8D57u);
      c[0][set] = second.high ^ c[1][set] ^ key.low;
      c[2][set] = first.high ^ c[3][set] ^ key.high;
      c[1][set] = second.low;
      c[3][set] = first.low;
    }
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
}

ADAPTINF_ALWAYS Words all(uint32_t value) { return value - Words{}; }

// kCounters neighbouring rows of one block.
ADAPTINF_ALWAYS void sign_words_of_rows(PhiloxKey key, uint32_t domain, const uint32_t* row_ids, int64_t rows,
                                        uint64_t block, uint32_t* out) {
  Counters counters;
  for (int64_t set = 0; set < kSets; ++set) {
    counters.word[0][set] = all(static_cast<uint32_t>(block));
    counters.word[1][set] = all(static_cast<uint32_t>(block >> 32));
    counters.word[2][set] = *reinterpret_cast<const LooseWords*>(row_ids + set * kLanes);
    counters.word[3][set] = all(domain);
  }
  philox(counters, key);
  for (int64_t word = 0; word < 4; ++word)
    for (int64_t set = 0; set < kSets; ++set)
      *reinterpret_cast<LooseWords*>(out + word * rows + set * kLanes) = counters.word[word][set];
}

void sign_words(PhiloxKey key, uint32_t domain, const uint32_t* row_ids, int64_t rows, uint64_t first_block, int64_t blocks,
                uint32_t* out) {
  const int64_t whole = rows / kCounters * kCounters, rest = rows - whole;
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t row = 0; row < whole; row += kCounters)
      sign_words_of_rows(key, domain, row_ids + row, rows, first_block + static_cast<uint64_t>(block),
                         out + 4 * block * rows + row);
  for (int64_t first = 0; first < rest * blocks; first += kCounters) {  // the rows that are left, of all blocks
    const int64_t count = std::min(kCounters, rest * blocks - first);
    Counters counters{};
    uint32_t* targets[kCounters];
    int64_t block = first / rest, row = whole + first % rest;
    for (int64_t lane = 0; lane < count; ++lane) {
      const uint64_t counter = first_block + static_cast<uint64_t>(block);
      counters.lanes(0)[lane] = static_cast<uint32_t>(counter);
      counters.lanes(1)[lane] = static_cast<uint32_t>(counter >> 32);
      counters.lanes(2)[lane] = row_ids[row];
      counters.lanes(3)[lane] = domain;
      targets[lane] = out + 4 * block * rows + row;
      if (++row == rows) row = whole, ++block;
    }
    philox(counters, key);
    for (int64_t lane = 0; lane < count; ++lane)
      for (int64_t word = 0; word < 4; ++word) targets[lane][word * rows] = counters.lanes(word)[lane];
  }
}

void turn_words(PhiloxKey key, uint64_t first, uint32_t word2, uint32_t word3, int64_t count, uint32_t (*out)[2]) {
  for (int64_t start = 0; start < count; start += kCounters) {
    Counters counters;
    for (int64_t lane = 0; lane < kCounters; ++lane) {
      const uint64_t counter = first + static_cast<uint64_t>(start + lane);
      counters.lanes(0)[lane] = static_cast<uint32_t>(counter);
      counters.lanes(1)[lane] = static_cast<uint32_t>(counter >> 32);
    }
    for (int64_t set = 0; set < kSets; ++set) {
      counters.word[2][set] = all(word2);
      counters.word[3][set] = all(word3);
    }
    philox(counters, key);
    for (int64_t lane = 0; lane < std::min(kCounters, count - start); ++lane) {
      out[start + lane][0] = counters.lanes(0)[lane];
      out[start + lane][1] = counters.lanes(1)[lane];
    }
  }
}

void sign_panel(const uint32_t* words, float* out) {
  for (int64_t first = 0; first < kPanel; first += kLanes) {
    const Words bits = *reinterpret_cast<const LooseWords*>(words + first);
    for (int bit = 0; bit < 32; ++bit)
      store(out + bit * kPanel + first, reinterpret_cast<Vector>(((bits << (31 - bit)) & kSignBit) | 0x3f800000u));
  }
}
