#include "device_arguments.h"

#include "cuda_device.h"

namespace adaptinf {

void DeviceArguments::check_memory() const {
  const DeviceGuard guard(index_);
  for (const auto& [name, view] : views_)
    if (std::count(view.shape.begin(), view.shape.end(), 0) == 0) check_device_pointer(view, name);
}

}  // namespace adaptinf
