"""What an adapter file holds, told without its base: facts of its layers, energies, header, faults.

It reads one layer at a time, and faults become warnings: a file that no command would apply can
still be inspected. `layer_facts` describes one layer, `energies` measures its change, `blocks`
knows where a layer lies, `stated` compares the header with the tensors, and `file_facts` puts them
together. `inspection_text` writes an inspection for a terminal and as JSON.

It may be imported by the verbs of `api.adapters`, and by `cli`.
"""
