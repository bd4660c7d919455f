import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import sharp from 'sharp'
import { describe, expect, onTestFinished, test } from 'vitest'
import { buildTestApp } from '../testApp.js'

const input = { prompt: 'p', num_inference_steps: 1, num_outputs: 2, output_format: 'png' }

type Upload = {
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
}

/** A place for uploads, which answers each with `respond`. */
async function receive(respond: (response: ServerResponse, count: number) => void) {
  const uploads: Upload[] = []
  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await request.toArray())
    uploads.push({ url: `${request.method} ${request.url}`, headers: request.headers, body })
    respond(response, uploads.length)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
  })
  return { uploads, origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

const ok = (response: ServerResponse) => {
  response.end()
}

describe('FLUXD_UPLOAD_URL', () => {
  test('takes each picture by PUT, and the output names its URLs without their query', async () => {
    const { uploads, origin } = await receive(ok)
    const environment = { FLUXD_UPLOAD_URL: `${origin}/bucket` }
    const { app } = await buildTestApp({}, undefined, environment)
    const reply = await app.inject({
      method: 'POST',
      url: '/predictions',
      payload: { id: 'mine', input },
      headers: { traceparent: '00-abc-def-01' },
    })
    expect(reply.json().output).toEqual([
      `${origin}/bucket/out-0.png`,
      `${origin}/bucket/out-1.png`,
    ])
    expect(uploads.map(({ url }) => url).sort()).toEqual([
      'PUT /bucket/out-0.png',
      'PUT /bucket/out-1.png',
    ])
    for (const { headers, body } of uploads) {
      expect(headers).toMatchObject({
        'content-type': 'image/png',
        'x-prediction-id': 'mine',
        traceparent: '00-abc-def-01',
      })
      expect((await sharp(body).metadata()).format).toBe('png')
    }
  })

  test('may answer with the place, and is asked once', async () => {
    const { uploads, origin } = await receive((response, count) =>
      response.writeHead(201, { location: `/stored/${count}?signature=s` }).end(),
    )
    const { app } = await buildTestApp({}, undefined, { FLUXD_UPLOAD_URL: origin })
    const put = async () =>
      (
        await app.inject({
          method: 'PUT',
          url: '/predictions/mine',
          payload: { input: { ...input, num_outputs: 1 } },
        })
      ).json().output
    expect(await put()).toEqual([`${origin}/stored/1`])
    expect(await put()).toEqual([`${origin}/stored/1`])
    expect(uploads).toHaveLength(1)
  })

  test('is tried again after a failure that may pass', async () => {
    const { uploads, origin } = await receive((response, count) =>
      response.writeHead(count === 1 ? 503 : 200).end(),
    )
    const { predict } = await buildTestApp({}, undefined, { FLUXD_UPLOAD_URL: origin })
    const { body } = await predict({ input: { ...input, num_outputs: 1 } })
    expect(body.output).toEqual([`${origin}/out-0.png`])
    expect(uploads).toHaveLength(2)
  })

  test('that fails for good loses nothing: the picture is a data URI', async () => {
    const { uploads, origin } = await receive((response) => response.writeHead(403).end())
    const { predict } = await buildTestApp({}, undefined, { FLUXD_UPLOAD_URL: origin })
    const { body } = await predict({ input: { ...input, num_outputs: 1 } })
    expect(body).toMatchObject({
      status: 'succeeded',
      output: [expect.stringMatching(/^data:image\/png;base64,/)],
    })
    expect(uploads).toHaveLength(1)
  })
})

describe('output_file_prefix', () => {
  test('takes each picture as a form, and the URL is told as it is', async () => {
    const { uploads, origin } = await receive(ok)
    const { predict } = await buildTestApp({}, undefined, { FLUXD_ALLOWED_HOSTS: '127.0.0.1' })
    const prefix = `${origin}/a?name=`
    const { body } = await predict({
      input: { ...input, num_outputs: 1 },
      output_file_prefix: prefix,
    })
    expect(body.output).toEqual([`${prefix}out-0.png`])
    expect(uploads[0]!.url).toBe('PUT /a?name=out-0.png')
    expect(uploads[0]!.headers['content-type']).toMatch(/^multipart\/form-data; boundary=/)
    expect(uploads[0]!.body.toString('latin1')).toContain('name="file"; filename="out-0.png"')
  })

  test('of this network is not connected to, as it is the client’s', async () => {
    const { uploads, origin } = await receive(ok)
    const { predict } = await buildTestApp()
    const { body } = await predict({ input, output_file_prefix: origin })
    expect(body.output[0]).toMatch(/^data:/)
    expect(uploads).toEqual([])
  })
})
