/*
 * The library's first choice is taken. Timing its choices at the first use would now and then find
 * a faster one, but the algorithm decides the order of summation, and a seed must give the same
 * image after every start; test/gpu measures what that costs.
 */
#include "matmul.h"
#include "scratch.h"
#include "status.h"

#include <mutex>
#include <unordered_map>
#include <vector>

namespace fluxd::cuda {

using lt::api;
using lt::check;

struct MatmulPlan {
  MatmulShape shape;
  std::mutex mutex;  // addresses of bias and scales are part of the descriptor
  lt::MatmulDesc *desc = nullptr;
  lt::MatrixLayout *a = nullptr, *b = nullptr, *d = nullptr;
  std::vector<lt::Algorithm> algorithms;

  MatmulPlan() = default;
  MatmulPlan(const MatmulPlan &) = delete;
  MatmulPlan &operator=(const MatmulPlan &) = delete;
  ~MatmulPlan() {
    if (desc) api().MatmulDescDestroy(desc);
    for (lt::MatrixLayout *layout : {a, b, d}) {
      if (layout) api().MatrixLayoutDestroy(layout);
    }
  }
};

namespace {

constexpr int kMaxAlgorithms = 8;
// Sizes of images are the user's choice; their plans must not fill the memory.
constexpr size_t kMaxPlans = 1024;

lt::Handle *handle() {
  static lt::Handle *const created = [] {
    lt::Handle *made = nullptr;
    check(api().Create(&made), "start");
    return made;
  }();
  return created;
}

template <typename Value>
void set(lt::MatmulDesc *desc, lt::MatmulAttribute attribute, Value value) {
  check(api().MatmulDescSetAttribute(desc, attribute, &value, sizeof value), "describe a product");
}

uint32_t epilogueOf(const MatmulShape &shape) {
  const uint32_t kind =
      (shape.bias ? lt::kEpilogueBias : 0u) | (shape.gelu ? lt::kEpilogueGelu : 0u);
  return kind == 0 ? lt::kEpilogueDefault : kind;
}

/** Puts the addresses that are part of the descriptor there. */
void point(const MatmulPlan &plan, const MatmulShape &shape, const MatmulOperands &operands) {
  if (shape.bias) set<const void *>(plan.desc, lt::kBiasPointer, operands.bias);
  if (shape.outerScales) {
    set<const void *>(plan.desc, lt::kScalePointerA, operands.weightScale);
    set<const void *>(plan.desc, lt::kScalePointerB, operands.xScale);
  }
}

void describe(MatmulPlan &plan, const MatmulShape &shape) {
  const auto type = shape.fp8 ? lt::kFloat8E4m3 : lt::kBfloat16;
  check(api().MatmulDescCreate(&plan.desc, lt::kCompute32F, lt::kFloat32), "describe a product");
  set<int32_t>(plan.desc, lt::kTransA, lt::kTranspose);
  set<uint32_t>(plan.desc, lt::kEpilogue, epilogueOf(shape));
  // Sums of fp8 products stay in the tensor cores' own accumulators, as in other fp8 stacks.
  if (shape.fp8) set<int8_t>(plan.desc, lt::kFastAccumulation, 1);
  if (shape.outerScales) {
    set<int32_t>(plan.desc, lt::kScaleModeA, lt::kOuterVector);
    set<int32_t>(plan.desc, lt::kScaleModeB, lt::kOuterVector);
  }
  const auto layout = [](lt::MatrixLayout **made, lt::DataType of, int64_t rows, int64_t columns,
                         int64_t stride) {
    check(api().MatrixLayoutCreate(made, of, static_cast<uint64_t>(rows),
                                   static_cast<uint64_t>(columns), stride),
          "describe a matrix");
  };
  layout(&plan.a, type, shape.in, shape.out, shape.in);
  layout(&plan.b, type, shape.in, shape.rows, shape.in);
  layout(&plan.d, lt::kBfloat16, shape.out, shape.rows, shape.stride);
}

/** The library's algorithms for the plan, best first; none where it has none. */
std::vector<lt::Algorithm> search(const MatmulPlan &plan, uint32_t alignment) {
  lt::Preference *made = nullptr;
  check(api().MatmulPreferenceCreate(&made), "search an algorithm");
  const auto destroy = [](lt::Preference *preference) {
    api().MatmulPreferenceDestroy(preference);
  };
  const std::unique_ptr<lt::Preference, decltype(destroy)> preference(made, destroy);
  const auto prefer = [&](lt::PreferenceAttribute attribute, auto value) {
    check(api().MatmulPreferenceSetAttribute(made, attribute, &value, sizeof value),
          "search an algorithm");
  };
  prefer(lt::kMaxWorkspaceBytes, uint64_t{kWorkspaceBytes});
  // Products of few long rows are made in parts, which other schemes would round to bf16 and add
  // up.
  prefer(lt::kReductionSchemes, uint32_t{lt::kInComputeType});
  for (auto operand : {lt::kMinAlignmentA, lt::kMinAlignmentB, lt::kMinAlignmentC,
                       lt::kMinAlignmentD}) {
    prefer(operand, alignment);
  }
  lt::HeuristicResult results[kMaxAlgorithms];
  int found = 0;
  const lt::Status status =
      api().MatmulAlgoGetHeuristic(handle(), plan.desc, plan.a, plan.b, plan.d, plan.d, made,
                                   kMaxAlgorithms, results, &found);
  if (lt::isRefusal(status)) return {};
  check(status, "search an algorithm");
  std::vector<lt::Algorithm> algorithms;
  for (int i = 0; i < found; i++) {
    if (results[i].state == 0) algorithms.push_back(results[i].algorithm);
  }
  return algorithms;
}

std::shared_ptr<MatmulPlan> makePlan(const MatmulShape &shape, const MatmulOperands &operands) {
  const auto plan = std::make_shared<MatmulPlan>();
  plan->shape = shape;
  describe(*plan, shape);
  point(*plan, shape, operands);
  plan->algorithms = search(*plan, shape.alignment);
  return plan;
}

struct HashShape {
  size_t operator()(const MatmulShape &shape) const {
    size_t hash = 0;
    for (int64_t part : {shape.rows, shape.in, shape.out, shape.stride,
                         int64_t{shape.alignment} << 4 | shape.fp8 << 3 | shape.outerScales << 2 |
                             shape.bias << 1 | int64_t{shape.gelu}}) {
      hash = hash * 1000003 + static_cast<size_t>(part);
    }
    return hash;
  }
};

struct PlanCache {
  std::mutex mutex;
  std::unordered_map<MatmulShape, std::shared_ptr<MatmulPlan>, HashShape> plans;
};

/** Whether the library took `algorithm`, which is then enqueued. */
bool run(const MatmulPlan &plan, const MatmulOperands &operands, const lt::Algorithm &algorithm,
         cudaStream_t stream) {
  const float one = 1, zero = 0;
  const Scratch scratch = scratchOf(stream);
  point(plan, plan.shape, operands);
  const lt::Status status = api().Matmul(
      handle(), plan.desc, &one, operands.weight, plan.a, operands.x, plan.b, &zero, operands.y,
      plan.d, operands.y, plan.d, &algorithm, scratch.workspace, kWorkspaceBytes, stream);
  if (lt::isRefusal(status)) return false;
  check(status, "multiply matrices");
  return true;
}

}  // namespace

std::shared_ptr<MatmulPlan> planOf(const MatmulShape &shape, const MatmulOperands &operands) {
  static PlanCache *const cache = new PlanCache;
  const std::lock_guard lock(cache->mutex);
  const auto found = cache->plans.find(shape);
  if (found != cache->plans.end()) return found->second;
  auto plan = makePlan(shape, operands);
  if (cache->plans.size() >= kMaxPlans) cache->plans.clear();
  cache->plans.emplace(shape, plan);
  return plan;
}

int algorithmCount(const MatmulPlan &plan) { return static_cast<int>(plan.algorithms.size()); }

bool runMatmul(MatmulPlan &plan, const MatmulOperands &operands, cudaStream_t stream,
               int algorithm) {
  const std::lock_guard lock(plan.mutex);
  return run(plan, operands, plan.algorithms[static_cast<size_t>(algorithm)], stream);
}

bool multiply(const MatmulShape &shape, const MatmulOperands &operands, cudaStream_t stream) {
  const auto plan = planOf(shape, operands);
  const std::lock_guard lock(plan->mutex);
  auto &algorithms = plan->algorithms;
  while (!algorithms.empty()) {
    if (run(*plan, operands, algorithms.front(), stream)) return true;
    algorithms.erase(algorithms.begin());
  }
  return false;
}

uint32_t commonAlignment(std::initializer_list<const void *> addresses) {
  uintptr_t bits = 256;
  for (const void *address : addresses) bits |= reinterpret_cast<uintptr_t>(address);
  return static_cast<uint32_t>(bits & -bits);
}

}  // namespace fluxd::cuda
