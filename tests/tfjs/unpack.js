// node unpack.js FOLDER TARGET: nsfwjs's bundles of JavaScript -> model.json and the files that it names
const fs = require('fs')
const path = require('path')

const [folder, target] = process.argv.slice(2).map((name) => path.resolve(name))
const model = require(path.join(folder, 'model.min.js'))
fs.mkdirSync(target, { recursive: true })
for (const group of model.weightsManifest) {
  for (const name of group.paths) {
    fs.writeFileSync(path.join(target, name), Buffer.from(require(path.join(folder, `${name}.min.js`)), 'base64'))
  }
}
fs.writeFileSync(path.join(target, 'model.json'), JSON.stringify(model))
