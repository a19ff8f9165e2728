/* libjpeg behind three calls without callbacks, so that its longjmp never crosses a Rust frame.
 * Follows Pillow 13.0.0, src/libImaging/JpegDecode.c: default DCT and upsampling, warnings ignored, and an error
 * as soon as the decoder wants more bytes than there are. */
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jpeglib.h"
#include "jerror.h"

struct failure {
  struct jpeg_error_mgr base;
  jmp_buf back;
  char message[JMSG_LENGTH_MAX];
};

struct vision_preproc_jpeg {
  struct jpeg_decompress_struct info;
  struct jpeg_source_mgr source;
  struct failure failure;
};

static void fail(j_common_ptr info) {
  struct failure *failure = (struct failure *)info->err;
  info->err->format_message(info, failure->message);
  longjmp(failure->back, 1);
}

static void refuse(j_decompress_ptr info, const char *reason) {
  struct failure *failure = (struct failure *)info->err;
  snprintf(failure->message, JMSG_LENGTH_MAX, "%s", reason);
  longjmp(failure->back, 1);
}

static void ignore_warning(j_common_ptr info, int level) {
  if (level < 0)
    info->err->num_warnings++;
}

static void nothing(j_decompress_ptr info) {
  (void)info;
}

static boolean no_more(j_decompress_ptr info) {
  refuse(info, "the file is truncated");
  return FALSE;
}

static void skip(j_decompress_ptr info, long bytes) {
  if (bytes <= 0)
    return;
  if ((size_t)bytes > info->src->bytes_in_buffer)
    no_more(info);
  info->src->next_input_byte += bytes;
  info->src->bytes_in_buffer -= (size_t)bytes;
}

/* What follows the last row is not looked at: Pillow accepts a file whose end marker is missing. */
void vision_preproc_jpeg_close(struct vision_preproc_jpeg *jpeg) {
  jpeg_destroy_decompress(&jpeg->info);
  free(jpeg);
}

static int begin(struct vision_preproc_jpeg *jpeg, const unsigned char *bytes, size_t len,
                 unsigned int width, unsigned int height, unsigned int components) {
  struct jpeg_decompress_struct *info = &jpeg->info;
  if (setjmp(jpeg->failure.back))
    return -1;
  jpeg_create_decompress(info);
  jpeg->source.init_source = nothing;
  jpeg->source.fill_input_buffer = no_more;
  jpeg->source.skip_input_data = skip;
  jpeg->source.resync_to_restart = jpeg_resync_to_restart;
  jpeg->source.term_source = nothing;
  jpeg->source.next_input_byte = bytes;
  jpeg->source.bytes_in_buffer = len;
  info->src = &jpeg->source;

  while (jpeg_read_header(info, FALSE) != JPEG_HEADER_OK)
    ;
  if (info->image_width != width || info->image_height != height ||
      (unsigned int)info->num_components != components)
    refuse(info, "the file has two different frame headers");
  switch (components) {
    case 1: info->out_color_space = JCS_GRAYSCALE; break;
    case 3: info->out_color_space = JCS_RGB; break;
    case 4: info->out_color_space = JCS_CMYK; break;
    default: refuse(info, "the number of components is not 1, 3 or 4");
  }
  jpeg_start_decompress(info);
  if (info->output_width != width || info->output_height != height)
    refuse(info, "the decoded size is not that of the header");
  return 0;
}

/* Opens `bytes`, which must stay until the close, and have `width` by `height` pixels of 1 (grey), 3 (RGB) or 4 (CMYK)
 * components. On failure it returns NULL and `message` (JMSG_LENGTH_MAX = 200 bytes) says why. */
struct vision_preproc_jpeg *vision_preproc_jpeg_open(const unsigned char *bytes, size_t len,
                                                     unsigned int width, unsigned int height,
                                                     unsigned int components, char *message) {
  struct vision_preproc_jpeg *jpeg = calloc(1, sizeof *jpeg);
  if (!jpeg) {
    strcpy(message, "out of memory");
    return NULL;
  }
  jpeg->info.err = jpeg_std_error(&jpeg->failure.base);
  jpeg->failure.base.error_exit = fail;
  jpeg->failure.base.emit_message = ignore_warning;
  if (begin(jpeg, bytes, len, width, height, components)) {
    memcpy(message, jpeg->failure.message, JMSG_LENGTH_MAX);
    vision_preproc_jpeg_close(jpeg);
    return NULL;
  }
  return jpeg;
}

/* Reads up to `count` further rows to `rows`, without padding; returns how many, 0 after the last and -1 on failure. */
int vision_preproc_jpeg_read(struct vision_preproc_jpeg *jpeg, unsigned char *rows,
                             unsigned int count, char *message) {
  struct jpeg_decompress_struct *info = &jpeg->info;
  JDIMENSION first = info->output_scanline;
  size_t stride = (size_t)info->output_width * info->output_components;
  if (setjmp(jpeg->failure.back)) {
    memcpy(message, jpeg->failure.message, JMSG_LENGTH_MAX);
    return -1;
  }
  while (info->output_scanline < info->output_height && info->output_scanline - first < count) {
    JSAMPROW row = rows + (info->output_scanline - first) * stride;
    jpeg_read_scanlines(info, &row, 1);
  }
  return (int)(info->output_scanline - first);
}
