// The compiled kernels that this library carries; the table is made by build_images.py.
#ifndef SLC_CUDA_IMAGES_H_
#define SLC_CUDA_IMAGES_H_

#include <cstddef>

namespace slc::cuda {

struct Image {
  int sm;       // 87 for sm_87
  bool is_ptx;  // text that a driver compiles for any GPU from this SM on
  const unsigned char* data;
};

extern const Image kImages[];
extern const int kImageCount;

// The image for a GPU, null when none runs there: of cubins, those of its major version and no
// newer minor; else the newest PTX that is not newer than the GPU.
inline const Image* ImageFor(int sm) {
  const Image* best = nullptr;
  for (int i = 0; i < kImageCount; ++i) {
    const Image& image = kImages[i];
    const bool runs = image.is_ptx ? image.sm <= sm : image.sm / 10 == sm / 10 && image.sm <= sm;
    if (!runs) continue;
    const bool better = best == nullptr || (best->is_ptx && !image.is_ptx) ||
                        (best->is_ptx == image.is_ptx && best->sm < image.sm);
    if (better) best = &image;
  }
  return best;
}

}  // namespace slc::cuda

#endif  // SLC_CUDA_IMAGES_H_
