/**
 * Turns off the telemetry of ONNX Runtime, which is on by default, keeps a device id in the user's
 * cache and sends events to its vendor. The library reads this variable once, when it is loaded, so
 * every file that imports onnxruntime-node imports this one first. Child processes inherit it.
 */
process.env['ORT_DISABLE_TELEMETRY'] = '1'
