/* libjpeg behind two calls without callbacks, so that its longjmp never crosses a Rust frame.
 * Follows Pillow 13.0.0, src/libImaging/JpegDecode.c: default DCT and upsampling, warnings ignored, and an error
 * as soon as the decoder wants more bytes than there are. */
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "jpeglib.h"
#include "jerror.h"

struct failure {
  struct jpeg_error_mgr base;
  jmp_buf back;
  char message[JMSG_LENGTH_MAX];
};

static void fail(j_common_ptr info) {
  struct failure *failure = (struct failure *)info->err;
  info->err->format_message(info, failure->message);
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
  struct failure *failure = (struct failure *)info->err;
  strcpy(failure->message, "the file is truncated");
  longjmp(failure->back, 1);
}

static void skip(j_decompress_ptr info, long bytes) {
  if (bytes <= 0)
    return;
  if ((size_t)bytes > info->src->bytes_in_buffer)
    no_more(info);
  info->src->next_input_byte += bytes;
  info->src->bytes_in_buffer -= (size_t)bytes;
}

/* Decodes `bytes` into `width * height * components` bytes at `pixels` (1 grey, 3 RGB, 4 CMYK).
 * Returns 0 on success. On failure `message` (JMSG_LENGTH_MAX = 200 bytes) says why. */
int vision_preproc_jpeg(const unsigned char *bytes, size_t len, unsigned int width,
                        unsigned int height, unsigned int components, unsigned char *pixels,
                        char *message) {
  struct jpeg_decompress_struct info;
  struct failure failure;
  struct jpeg_source_mgr source;

  info.err = jpeg_std_error(&failure.base);
  failure.base.error_exit = fail;
  failure.base.emit_message = ignore_warning;
  failure.message[0] = 0;
  if (setjmp(failure.back)) {
    jpeg_destroy_decompress(&info);
    memcpy(message, failure.message, JMSG_LENGTH_MAX);
    return 1;
  }
  jpeg_create_decompress(&info);
  source.init_source = nothing;
  source.fill_input_buffer = no_more;
  source.skip_input_data = skip;
  source.resync_to_restart = jpeg_resync_to_restart;
  source.term_source = nothing;
  source.next_input_byte = bytes;
  source.bytes_in_buffer = len;
  info.src = &source;

  while (jpeg_read_header(&info, FALSE) != JPEG_HEADER_OK)
    ;
  if (info.image_width != width || info.image_height != height ||
      (unsigned int)info.num_components != components) {
    strcpy(message, "the file has two different frame headers");
    jpeg_destroy_decompress(&info);
    return 1;
  }
  switch (components) {
    case 1: info.out_color_space = JCS_GRAYSCALE; break;
    case 3: info.out_color_space = JCS_RGB; break;
    case 4: info.out_color_space = JCS_CMYK; break;
    default:
      snprintf(message, JMSG_LENGTH_MAX, "%u components; 1, 3 and 4 are supported", components);
      jpeg_destroy_decompress(&info);
      return 1;
  }
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = pixels + (size_t)info.output_scanline * width * components;
    jpeg_read_scanlines(&info, &row, 1);
  }
  /* What follows the last row is not looked at: Pillow accepts a file whose end marker is missing. */
  jpeg_destroy_decompress(&info);
  return 0;
}
