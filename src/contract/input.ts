/**
 * The input of a prediction: the Input schema of Replicate's Flux fine-tunes, field by field.
 * `publishedInput` is the schema as published (20 fields); its JSON Schema is deep-equal to the one
 * in the seed documents. `FluxInput` also accepts `replicate_weights`, which the platform hides (it
 * is the missing x-order 17). Unknown fields are dropped, as Cog drops them; nothing is coerced
 * ("28" is not 28), and values out of bounds are errors, never clamped.
 */
import { z } from 'zod'

export const aspectRatios = [
  '1:1',
  '16:9',
  '21:9',
  '3:2',
  '2:3',
  '4:5',
  '5:4',
  '3:4',
  '4:3',
  '9:16',
  '9:21',
  'custom',
] as const
export type AspectRatio = (typeof aspectRatios)[number]

export const megapixelChoices = ['1', '0.25'] as const
export type Megapixels = (typeof megapixelChoices)[number]

const customSize = (side: string) =>
  `${side} of generated image. Only works if \`aspect_ratio\` is set to custom. ` +
  'Will be rounded to nearest multiple of 16. Incompatible with fast generation'

const loraStrength = (which: string) =>
  `Determines how strongly the ${which} LoRA should be applied. Sane results between 0 and 1 ` +
  "for base inference. For go_fast we apply a 1.5x multiplier to this value; we've generally " +
  'seen good performance when scaling the base value by that amount. You may still need to ' +
  'experiment to find the best value for your particular lora.'

const loraReference =
  'Load LoRA weights. Supports Replicate models in the format <owner>/<username> or ' +
  '<owner>/<username>/<version>, HuggingFace URLs in the format ' +
  'huggingface.co/<owner>/<model-name>, CivitAI URLs in the format ' +
  'civitai.com/models/<id>[/<model-name>], or arbitrary .safetensors URLs from the Internet. ' +
  "For example, 'fofr/flux-pixar-cars'"

/**
 * Characters: two hundred times what the text encoders read. Like the bounds of integers, it is not
 * in the published schema.
 */
export const longestPrompt = 100_000

/** The fields that are files. */
export const fileFields = ['image', 'mask'] as const

/** A file as a URL. Only the scheme is validated here: a data URI can be 100 MB long. */
const fileUri = z.string().refine((uri) => /^(https?|data):/i.test(uri), {
  error: ({ input }) =>
    `'${String(input).split(':', 1)[0]!.slice(0, 32)}' is not a valid URL scheme. ` +
    "'data', 'http', or 'https' is supported.",
})

const loraScale = z.number().min(-1).max(3).default(1)

export const publishedInput = z
  .object({
    prompt: z
      .string()
      .max(longestPrompt)
      .meta({
        title: 'Prompt',
        'x-order': 0,
        description:
          'Prompt for generated image. If you include the `trigger_word` used in the training ' +
          'process you are more likely to activate the trained object, style, or concept in ' +
          'the resulting image.',
      }),
    image: fileUri.optional().meta({
      title: 'Image',
      'x-order': 1,
      format: 'uri',
      description:
        'Input image for image to image or inpainting mode. If provided, aspect_ratio, width, ' +
        'and height inputs are ignored.',
    }),
    mask: fileUri.optional().meta({
      title: 'Mask',
      'x-order': 2,
      format: 'uri',
      description:
        'Image mask for image inpainting mode. If provided, aspect_ratio, width, and height ' +
        'inputs are ignored.',
    }),
    aspect_ratio: z
      .enum(aspectRatios)
      .default('1:1')
      .meta({
        title: 'aspect_ratio',
        'x-order': 3,
        description:
          'Aspect ratio for the generated image. If custom is selected, uses height and width ' +
          'below & will run in bf16 mode',
      }),
    height: z
      .int()
      .min(256)
      .max(1440)
      .optional()
      .meta({ title: 'Height', 'x-order': 4, description: customSize('Height') }),
    width: z
      .int()
      .min(256)
      .max(1440)
      .optional()
      .meta({ title: 'Width', 'x-order': 5, description: customSize('Width') }),
    prompt_strength: z
      .number()
      .min(0)
      .max(1)
      .default(0.8)
      .meta({
        title: 'Prompt Strength',
        'x-order': 6,
        description:
          'Prompt strength when using img2img. 1.0 corresponds to full destruction of ' +
          'information in image',
      }),
    model: z
      .enum(['dev', 'schnell'])
      .default('dev')
      .meta({
        title: 'model',
        'x-order': 7,
        description:
          'Which model to run inference with. The dev model performs best with around 28 ' +
          'inference steps but the schnell model only needs 4 steps.',
      }),
    num_outputs: z.int().min(1).max(4).default(1).meta({
      title: 'Num Outputs',
      'x-order': 8,
      description: 'Number of outputs to generate',
    }),
    num_inference_steps: z.int().min(1).max(50).default(28).meta({
      title: 'Num Inference Steps',
      'x-order': 9,
      description:
        'Number of denoising steps. More steps can give more detailed images, but take longer.',
    }),
    guidance_scale: z
      .number()
      .min(0)
      .max(10)
      .default(3)
      .meta({
        title: 'Guidance Scale',
        'x-order': 10,
        description:
          'Guidance scale for the diffusion process. Lower values can give more realistic ' +
          'images. Good values to try are 2, 2.5, 3 and 3.5',
      }),
    seed: z.int().optional().meta({
      title: 'Seed',
      'x-order': 11,
      description: 'Random seed. Set for reproducible generation',
    }),
    output_format: z.enum(['webp', 'jpg', 'png']).default('webp').meta({
      title: 'output_format',
      'x-order': 12,
      description: 'Format of the output images',
    }),
    output_quality: z
      .int()
      .min(0)
      .max(100)
      .default(80)
      .meta({
        title: 'Output Quality',
        'x-order': 13,
        description:
          'Quality when saving the output images, from 0 to 100. 100 is best quality, 0 is ' +
          'lowest quality. Not relevant for .png outputs',
      }),
    disable_safety_checker: z.boolean().default(false).meta({
      title: 'Disable Safety Checker',
      'x-order': 14,
      description: 'Disable safety checker for generated images.',
    }),
    go_fast: z
      .boolean()
      .default(false)
      .meta({
        title: 'Go Fast',
        'x-order': 15,
        description:
          'Run faster predictions with model optimized for speed (currently fp8 quantized); ' +
          'disable to run in original bf16',
      }),
    megapixels: z.enum(megapixelChoices).default('1').meta({
      title: 'megapixels',
      'x-order': 16,
      description: 'Approximate number of megapixels for generated image',
    }),
    lora_scale: loraScale.meta({
      title: 'Lora Scale',
      'x-order': 18,
      description: loraStrength('main'),
    }),
    extra_lora: z
      .string()
      .optional()
      .meta({ title: 'Extra Lora', 'x-order': 19, description: loraReference }),
    extra_lora_scale: loraScale.meta({
      title: 'Extra Lora Scale',
      'x-order': 20,
      description: loraStrength('extra'),
    }),
  })
  .meta({ title: 'Input' })

/** The published fields and the hidden 21st: the reference of the main LoRA. */
export const FluxInput = publishedInput.extend({ replicate_weights: z.string().optional() })
export type FluxInput = z.output<typeof FluxInput>

export const Output = z.array(z.string().meta({ format: 'uri' })).meta({ title: 'Output' })
