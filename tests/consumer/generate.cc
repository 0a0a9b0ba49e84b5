// A few tokens of a model, by the installed library: what `dualfp generate` does, in a program.
//   generate MODEL

#include <dualfp/llm/llm.h>

#include <cstdio>
#include <future>
#include <string>

int main(int /*argc*/, char** argv) {
  dualfp::LlmOptions options;
  options.model.model = argv[1];
  options.max_model_len = 64;
  options.max_num_seqs = 1;
  const auto llm = dualfp::LoadLlm(options);

  dualfp::Request request;
  request.prompt = llm->text->Encode("In the beginning", true, {});
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 8;
  std::string text;
  std::promise<void> finished;
  llm->engine->Submit(std::move(request), [&](const dualfp::RequestOutput& output) {
    for (const dualfp::ChoiceOutput& choice : output.choices) {
      text += choice.text;
    }
    if (output.finished) {
      finished.set_value();
    }
  });
  finished.get_future().wait();
  std::printf("%s\n", text.c_str());
  return text.empty() ? 1 : 0;
}
