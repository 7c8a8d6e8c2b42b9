// node predict.js MODEL.json X Y N H W: TensorFlow.js's answer for float32 images (N, H, W, 3) in the file X goes to Y
const fs = require('fs')
const path = require('path')
const { createRequire } = require('module')
const installed = createRequire(path.join(process.cwd(), 'package.json'))
const tf = installed('@tensorflow/tfjs-core')
const layers = installed('@tensorflow/tfjs-layers')
const wasm = installed('@tensorflow/tfjs-backend-wasm')

async function main([file, from, to, ...shape]) {
  wasm.setWasmPaths(path.dirname(installed.resolve('@tensorflow/tfjs-backend-wasm/package.json')) + '/dist/')
  if (!(await tf.setBackend('wasm'))) throw new Error('no WebAssembly')
  const { modelTopology, weightsManifest } = JSON.parse(fs.readFileSync(file))
  const names = weightsManifest.flatMap((group) => group.paths)
  const data = Buffer.concat(names.map((name) => fs.readFileSync(path.join(path.dirname(file), name))))
  const weightData = data.buffer.slice(data.byteOffset, data.byteOffset + data.length)
  const weightSpecs = weightsManifest.flatMap((group) => group.weights)
  const model = await layers.loadLayersModel(tf.io.fromMemory({ modelTopology, weightSpecs, weightData }))
  const x = fs.readFileSync(from)
  const images = new Float32Array(x.buffer.slice(x.byteOffset, x.byteOffset + x.length))
  const y = await model.predict(tf.tensor(images, [...shape.map(Number), 3])).data()
  fs.writeFileSync(to, Buffer.from(y.buffer, y.byteOffset, y.byteLength))
}

main(process.argv.slice(2))
